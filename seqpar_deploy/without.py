"""The boundary that keeps attributes out of everything that comes out.

Decoding is unchanged: the model still emits the attributes, since its later tokens depend on the earlier ones. Behind
the boundary there is a label set without them, with token ids of its own, and nothing tells what they were.
"""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np

from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.decoding.drafts import check_drafts
from seqpar_deploy.errors import StrategyError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet

_REMEMBERED = 512  # sequences, for drafts

_log = logging.getLogger(__name__)


class Boundary:
    """Takes attributes out of predictions, thresholds and drafts of a label set. Threads may share one.

    Args:
        label_set: The label set of the model.
        names: Names of the attributes to take out.

    Attributes:
        label_set: The label set without them.

    Raises:
        LabelSetError: No attribute would be left.
    """

    def __init__(self, label_set: LabelSet, names: Sequence[str]) -> None:
        removed = set(names)
        self.label_set = label_set.without(removed)
        self._places = [place for place, one in enumerate(label_set.attributes) if one.name not in removed]
        self._names = {one.name for one in self.label_set.attributes}
        self._full = [*range(FIRST_ATTRIBUTE), *(FIRST_ATTRIBUTE + place for place in self._places)]
        self._token = {full: token for token, full in enumerate(self._full)}
        self._sequences: collections.OrderedDict[tuple[int, ...], tuple[int, ...]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def full_tokens(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Return tokens of the label set that is left, in the ids of the whole one."""
        return tuple(self._full[token] for token in tokens)

    def thresholds(self, thresholds: Thresholds | None) -> Thresholds | None:
        """Return thresholds of the attributes that are left."""
        if thresholds is None:
            return None
        yes, no = thresholds.yes[self._places], thresholds.no[self._places]
        return Thresholds(yes=yes, no=no, exclusive=self.label_set.exclusive)

    def prediction(self, prediction: Prediction) -> Prediction:
        """Return a prediction without the attributes. Its steps are its tokens: the true number would tell of more."""
        tokens = tuple(self._token[token] for token in prediction.tokens if token in self._token)
        self._remember(tokens, prediction.tokens)
        kept = [pair for pair in zip(prediction.attributes, prediction.scores, strict=True) if pair[0] in self._names]
        return Prediction(
            attributes=tuple(name for name, _ in kept),
            scores=tuple(score for _, score in kept),
            probabilities=np.asarray(prediction.probabilities)[self._places],
            states=tuple(prediction.states[place] for place in self._places),
            tokens=tokens,
            steps=len(tokens),
        )

    def drafts(self, drafts: Sequence[Draft] | None, crops: int) -> list[Draft] | None:
        """Return drafts for the model: the latest full sequence that looked like the draft, else the draft itself.

        A draft never changes a prediction. Without the attributes that are left out, it is a wrong guess, and slow.

        Raises:
            StrategyError: A draft has a token that is not in the label set, or there is not one draft per crop.
        """
        if drafts is None:
            return None
        try:
            check_drafts(drafts, crops, self.label_set.vocabulary_size)
        except ValueError as error:
            raise StrategyError(str(error)) from None
        with self._lock:
            return [
                draft and self._sequences.get(tuple(draft), tuple(self._full[one] for one in draft)) for draft in drafts
            ]

    def _remember(self, tokens: tuple[int, ...], full: tuple[int, ...]) -> None:
        with self._lock:
            self._sequences[tokens] = full
            self._sequences.move_to_end(tokens)
            if len(self._sequences) > _REMEMBERED:
                self._sequences.popitem(last=False)


class WithoutAttributes:
    """Recognise with another recognizer, and keep attributes out of all that it returns.

    The label set, predictions, probabilities, states, tokens and thresholds lack the attributes, as if the model did
    not know them. Scores of the others may still depend on them: the model chooses each token given those before it.
    Attributes that go with the removed ones, for example a skirt with the sex, still tell of them; remove these too.

    Args:
        recognizer: The recognizer. `close` closes it.
        names: Names or patterns of attributes to keep out, for example `age*`. Case does not count.

    Attributes:
        recognizer: The recognizer that was passed.
        label_set: The label set without the attributes.

    Raises:
        LabelSetError: A name or pattern matches no attribute, or none would be left.

    Examples:
        >>> recognizer = WithoutAttributes(Recognizer.from_bundle("bundles/peta"), ["personalMale", "personalLess*"])
        >>> for event in watch("street.mp4", recognizer):
        ...     print(event.person.labels)
    """

    def __init__(self, recognizer: AnyRecognizer, names: Sequence[str]) -> None:
        self.recognizer = recognizer
        known = recognizer.label_set
        removed = known.matching(names)
        self._boundary = Boundary(known, removed)
        self.label_set = self._boundary.label_set
        _warn_of_rest(known, removed)

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds of the attributes that are left, or None if states follow from the tokens."""
        return self._boundary.thresholds(self.recognizer.thresholds)

    def predict(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> list[Prediction]:
        """Recognise the attributes of each crop.

        Args:
            crops: Crops of one person each, uint8 RGB (h, w, 3) of any size.
            drafts: A guess of each crop's tokens, as of `Prediction.tokens`, or None for a crop without one. Drafts
                never change a prediction. Default: none.

        Returns:
            One prediction per crop, in the same order.

        Raises:
            StrategyError: A draft has a token that is not in the label set, or there is not one draft per crop.
            SeqparError: As of the recognizer.
        """
        return list(self.predict_iter(crops, drafts=drafts))

    def predict_iter(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> Iterator[Prediction]:
        """Recognise the attributes of each crop, and yield the predictions as they are ready, in the same order.

        Args:
            crops: As of `predict`.
            drafts: As of `predict`.

        Yields:
            One prediction per crop.

        Raises:
            SeqparError: As `predict`.
        """
        full = self._boundary.drafts(drafts, len(crops))
        for prediction in self.recognizer.predict_iter(crops, drafts=full):
            yield self._boundary.prediction(prediction)

    def close(self) -> None:
        """Close the recognizer. Safe to call twice."""
        self.recognizer.close()

    def __enter__(self) -> WithoutAttributes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _warn_of_rest(label_set: LabelSet, removed: Sequence[str]) -> None:
    """Warn if attributes are left that exclude the removed ones, and so may tell of them."""
    names = [one.name for one in label_set.attributes]
    for places in label_set.exclusive:
        left = [names[place] for place in places if names[place] not in removed]
        if 0 < len(left) < len(places):
            group = label_set.attributes[places[0]].group
            _log.warning(
                "attributes of the group %s exclude each other, and some are left: %s; they may tell of the others",
                *(group, ", ".join(left)),
            )
