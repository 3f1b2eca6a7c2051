"""The facade a user embeds: crops in, attributes out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from seqpar_deploy.backends import Arithmetic, Backend, BackendName, open_backend
from seqpar_deploy.backends.base import QUICKER, GreedyBackend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Generation, Greedy, Speculative, Strategy
from seqpar_deploy.errors import BackendError, StrategyError
from seqpar_deploy.preprocess import Crop, check_crop, prepare_batch
from seqpar_deploy.tuned import load_tuned
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


@dataclasses.dataclass(frozen=True)
class Recheck:
    """What recognises a crop again, exactly, when one of its choices was won by less than `margin` (as a difference of
    log-probabilities) in quicker arithmetic."""

    backend: Backend[Any]
    margin: float


class Recognizer:
    """Runs a bundle on pictures of people. A context manager; threads may share one.

    >>> with Recognizer.from_bundle("bundles/peta") as recognizer:
    ...     for prediction in recognizer.predict(crops):
    ...         print(prediction.attributes)
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend[Any],
        *,
        strategy: Strategy | None = None,
        batch_size: int | None = None,
        recheck: Recheck | None = None,
    ) -> None:
        """Use `from_bundle`; this constructor is for a backend of your own."""
        self.bundle = bundle
        self.strategy: Strategy = Greedy() if strategy is None else strategy
        if batch_size is not None and batch_size < 1:
            raise StrategyError(f"batch size is {batch_size}, wanted 1 or more")
        self._batch_size = largest_batch(bundle.max_batch, backend, self.strategy, batch_size)
        self._backend: Backend[Any] | None = backend
        self._recheck = recheck

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        backend: BackendName = "auto",
        strategy: Strategy | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        arithmetic: Arithmetic | None = None,
        recheck: float | None = None,
        verify: bool = True,
    ) -> Recognizer:
        """Open a bundle and load it on a backend.

        `strategy` is `Greedy()` unless given; `batch_size` bounds the crops of one inference, by default the bundle's
        profile; `threads` bounds the CPU threads of one inference; `verify=False` trusts the files' hashes.

        `arithmetic` is exact unless given. Others are quicker and need `recheck`: crops one of whose choices was closer
        than this, as a difference of log-probabilities, are recognised again exactly (0: none are, and tokens change).

        Without any of these it does what `seqpar tune` found best for this bundle on this machine, if that was run.

        Raises BundleError, BackendError, BackendUnavailableError, StrategyError (an option out of range).
        """
        bundle = Bundle.open(path, verify=verify)
        told = [option for option in (strategy, batch_size, threads, arithmetic, recheck) if option is not None]
        if backend == "auto" and not told and (tuned := load_tuned(bundle)):
            try:
                strategy = Speculative() if tuned.speculative else Greedy()
                return cls._open(
                    bundle, tuned.backend, strategy, tuned.batch_size, tuned.threads, tuned.arithmetic, tuned.recheck
                )
            except BackendError as error:
                warnings.warn(f"what seqpar tune found is passed over: {error}", stacklevel=2)
                strategy = None
        return cls._open(bundle, backend, strategy, batch_size, threads, arithmetic or "exact", recheck)

    @classmethod
    def _open(
        cls,
        bundle: Bundle,
        backend: BackendName,
        strategy: Strategy | None,
        batch_size: int | None,
        threads: int | None,
        arithmetic: Arithmetic,
        recheck: float | None,
    ) -> Recognizer:
        if recheck is not None and not recheck >= 0:
            raise StrategyError(f"recheck is {recheck}, wanted 0 or more, as a difference of log-probabilities")
        if arithmetic in QUICKER and recheck is None:
            raise StrategyError(
                f"arithmetic {arithmetic} changes tokens where two choices are about as good; pass recheck, the margin "
                "that `seqpar tune` prints, or 0 to let them change"
            )
        with contextlib.ExitStack() as opened:
            quick = open_backend(bundle, backend, threads=threads, arithmetic=arithmetic)
            opened.callback(quick.close)
            doubt = None
            if arithmetic in QUICKER and recheck:
                exact = open_backend(bundle, quick.name, threads=threads)  # type: ignore[arg-type]
                opened.callback(exact.close)
                doubt = Recheck(exact, recheck)
            recognizer = cls(bundle, quick, strategy=strategy, batch_size=batch_size, recheck=doubt)
            opened.pop_all()
        return recognizer

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
        batches = (self._encode(crops[start : start + size]) for start in range(0, len(crops), size))
        for prepared, state in _one_ahead(batches) if isinstance(self.backend, GreedyBackend) else batches:
            generations = self._generate(self.backend, state)
            if self._recheck:
                generations = self._rechecked(self._recheck, prepared, generations)
            for generation in generations:
                yield prediction_from_generation(generation, self.bundle.label_set)

    def _encode(self, crops: Sequence[Crop]) -> tuple[Crop, Any]:
        """Prepared crops (B, H, W, 3) and the state they start."""
        image_size = self.bundle.dimensions.image_size
        prepared = prepare_batch(crops, image_size=image_size, preprocessing=self.bundle.preprocessing)
        return prepared, self.backend.encode(prepared)

    def _generate(self, backend: Backend[Any], state: Any) -> list[Generation]:
        return self.strategy.generate(backend, state, max_steps=self.bundle.dimensions.capacity - 1)

    def _rechecked(self, recheck: Recheck, prepared: Crop, generations: list[Generation]) -> list[Generation]:
        """The same, with exact generations in place of those that were in doubt."""
        # NaN is not known to be above anything.
        doubtful = [row for row, generation in enumerate(generations) if not generation.margin >= recheck.margin]
        if not doubtful:
            return generations
        exact = self._generate(recheck.backend, recheck.backend.encode(prepared[doubtful]))
        again = dict(zip(doubtful, exact, strict=True))
        return [again.get(row, generation) for row, generation in enumerate(generations)]

    def close(self) -> None:
        """Release the backend. Safe to call twice."""
        with contextlib.ExitStack() as closing:
            if self._recheck is not None:
                closing.callback(self._recheck.backend.close)
            if self._backend is not None:
                closing.callback(self._backend.close)
                self._backend = None

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _one_ahead(batches: Iterator[tuple[Crop, Any]]) -> Iterator[tuple[Crop, Any]]:
    """The same batches, each when the one after it has been started: a device encodes that one meanwhile."""
    following = next(batches, None)
    while following is not None:
        batch, following = following, next(batches, None)
        yield batch


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
