"""The facade a user embeds: crops in, attributes out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from seqpar_deploy.backends import Backend, BackendName, open_backend
from seqpar_deploy.backends.base import GreedyBackend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Generation, Greedy, Strategy
from seqpar_deploy.errors import BackendError, StrategyError
from seqpar_deploy.preprocess import Crop, check_crop, prepare_batch
from seqpar_deploy.vocab import LabelSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one person.

    `attributes` are names in the label set's order; `scores[i]` is the probability `attributes[i]` was emitted with,
    given the attributes emitted before it. `tokens` are the ids as generated, `steps` the decoder steps they took.
    """

    attributes: tuple[str, ...]
    scores: tuple[float, ...]
    tokens: tuple[int, ...]
    steps: int


class Recognizer:
    """Runs a bundle on pictures of people. A context manager; threads may share one.

    >>> with Recognizer.from_bundle("bundles/peta") as recognizer:
    ...     for prediction in recognizer.predict(crops):
    ...         print(prediction.attributes)
    """

    def __init__(
        self, bundle: Bundle, backend: Backend[Any], *, strategy: Strategy | None = None, batch_size: int | None = None
    ) -> None:
        """Use `from_bundle`; this constructor is for a backend of your own."""
        self.bundle = bundle
        self.strategy: Strategy = Greedy() if strategy is None else strategy
        if batch_size is not None and batch_size < 1:
            raise StrategyError(f"batch size is {batch_size}, wanted 1 or more")
        self._batch_size = largest_batch(bundle.max_batch, backend, self.strategy, batch_size)
        self._backend: Backend[Any] | None = backend

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        backend: BackendName = "auto",
        strategy: Strategy | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        verify: bool = True,
    ) -> Recognizer:
        """Open a bundle and load it on a backend.

        `strategy` is `Greedy()` unless given; `batch_size` bounds the crops of one inference, by default the bundle's
        profile; `threads` bounds the CPU threads of one inference; `verify=False` trusts the files' hashes.

        Raises BundleError, BackendError, BackendUnavailableError, StrategyError (`batch_size` below 1).
        """
        bundle = Bundle.open(path, verify=verify)
        return cls(bundle, open_backend(bundle, backend, threads=threads), strategy=strategy, batch_size=batch_size)

    @property
    def backend(self) -> Backend[Any]:
        """The backend it runs on; raises BackendError after `close`."""
        if self._backend is None:
            raise BackendError("this Recognizer is closed; open the bundle again")
        return self._backend

    def predict(self, crops: Sequence[Crop]) -> list[Prediction]:
        """Attributes of each crop, uint8 RGB (h, w, 3) of any size, in the order given.

        Raises ImageError, StrategyError (a beam too wide for the vocabulary), BackendError (closed).
        """
        return list(self.predict_iter(crops))

    def predict_iter(self, crops: Sequence[Crop]) -> Iterator[Prediction]:
        """As `predict`, yielding results a batch at a time, for progress bars. All crops are checked first."""
        for index, crop in enumerate(crops):
            check_crop(crop, f"crops[{index}]")
        size = self._batch_size
        states = (self._encode(crops[start : start + size]) for start in range(0, len(crops), size))
        for state in _one_ahead(states) if isinstance(self.backend, GreedyBackend) else states:
            generations = self.strategy.generate(self.backend, state, max_steps=self.bundle.dimensions.capacity - 1)
            for generation in generations:
                yield prediction_from_generation(generation, self.bundle.label_set)

    def _encode(self, crops: Sequence[Crop]) -> Any:
        image_size = self.bundle.dimensions.image_size
        batch = prepare_batch(crops, image_size=image_size, preprocessing=self.bundle.preprocessing)
        return self.backend.encode(batch)

    def close(self) -> None:
        """Release the backend. Safe to call twice."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _one_ahead(states: Iterator[Any]) -> Iterator[Any]:
    """The same states, each when the one after it has been started: a device encodes that one meanwhile."""
    following = next(states, None)
    while following is not None:
        state, following = following, next(states, None)
        yield state


def largest_batch(rows: int, backend: Backend[Any], strategy: Strategy, wanted: int | None = None) -> int:
    """Crops an inference: as many as `wanted`, or else as make `rows` of a batch, within what the backend holds."""
    per_crop = strategy.rows_per_crop()
    crops = wanted or rows // per_crop
    return max(1, crops if backend.max_rows is None else min(crops, backend.max_rows // per_crop))


def prediction_from_generation(generation: Generation, label_set: LabelSet) -> Prediction:
    """The set of attributes in a generated sequence. One that was emitted twice keeps its first score."""
    log_prob_of: dict[int, float] = {}
    for token, log_prob in zip(generation.tokens, generation.log_probs, strict=True):
        if label_set.attribute(token) is not None:
            log_prob_of.setdefault(token, log_prob)
    tokens = sorted(log_prob_of)
    return Prediction(
        attributes=tuple(attribute.name for token in tokens if (attribute := label_set.attribute(token))),
        scores=tuple(math.exp(min(0.0, log_prob_of[token])) for token in tokens),
        tokens=generation.tokens,
        steps=generation.steps,
    )
