"""The protocol that recognizers share, in this process or on a server, so that video and commands take any of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, TypeVar

from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.vocab import LabelSet

_Self = TypeVar("_Self")  # `typing.Self` is new in Python 3.11


class AnyRecognizer(Protocol):
    """Recognise attributes on crops of people: a `Recognizer`, a `RemoteRecognizer`, or one of your own.

    Threads may share one. It is a context manager that calls `close`.
    """

    @property
    def label_set(self) -> LabelSet:
        """The attributes, in the order of `Prediction.probabilities` and `Prediction.states`."""
        ...

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds of the states, or None if states follow from the tokens."""
        ...

    def predict(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> list[Prediction]:
        """Recognise the attributes of each crop.

        Args:
            crops: Crops of one person each, uint8 RGB (h, w, 3) of any size.
            drafts: A guess of each crop's tokens, or None for a crop without one. Drafts never change a prediction.
                Default: none.

        Returns:
            One prediction per crop, in the same order.

        Raises:
            SeqparError: A crop or a draft is invalid, or recognition fails.
        """
        ...

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
        ...

    def close(self) -> None:
        """Release what the recognizer holds. Safe to call twice."""
        ...

    def __enter__(self: _Self) -> _Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
