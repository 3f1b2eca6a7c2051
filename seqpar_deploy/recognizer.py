"""The facade a user embeds: crops in, attributes out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from seqpar_deploy.backends import Backend, BackendName, ComputePrecision, open_backend
from seqpar_deploy.backends.base import REDUCED_PRECISIONS, GreedyBackend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Generation, Greedy, Speculative, Strategy
from seqpar_deploy.errors import BackendError, StrategyError
from seqpar_deploy.preprocess import Crop, CropBatch, check_crop, prepare_batch
from seqpar_deploy.tuned import load_tuned
from seqpar_deploy.vocab import LabelSet

_log = logging.getLogger(__name__)


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
class Fallback:
    """Re-runs low-margin crops in native precision: those with a choice won by less than `margin`, a difference of
    log-probabilities."""

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
        fallback: Fallback | None = None,
    ) -> None:
        """Use `from_bundle`; this constructor is for a backend of your own."""
        self.bundle = bundle
        self.strategy: Strategy = Greedy() if strategy is None else strategy
        if batch_size is not None and batch_size < 1:
            raise StrategyError(f"batch size is {batch_size}, wanted 1 or more")
        self._batch_size = largest_batch(bundle.max_batch, backend, self.strategy, batch_size)
        self._backend: Backend[Any] | None = backend
        self._fallback = fallback

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        backend: BackendName = "auto",
        strategy: Strategy | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        compute_precision: ComputePrecision | None = None,
        fallback_margin: float | None = None,
        verify: bool = True,
    ) -> Recognizer:
        """Open a bundle and load it on a backend.

        `backend` "auto" takes the first that opens the bundle. One on an NVIDIA GPU has to reproduce the bundle's
        golden sequences on this machine first, which is checked once. One that is named is opened unchecked.

        `strategy` is `Greedy()` unless given; `batch_size` bounds the crops of one inference, by default the bundle's
        profile; `threads` bounds the CPU threads of one inference; `verify=False` trusts the files' hashes.

        `compute_precision` is "native" (the bundle's own) by default. "bf16" and "int8" are faster and need
        `fallback_margin`: crops with a choice won by less than this difference of log-probabilities are re-run in
        native precision (0 re-runs none, and tokens may change).

        Without any of these it does what `seqpar tune` found best for this bundle on this machine, if that was run.

        Raises BundleError, BackendError, BackendUnavailableError, StrategyError (an option out of range).
        """
        bundle = Bundle.open(path, verify=verify)
        given = (strategy, batch_size, threads, compute_precision, fallback_margin)
        if backend == "auto" and all(option is None for option in given) and (tuned := load_tuned(bundle)):
            try:
                strategy = Speculative() if tuned.speculative else Greedy()
                precision, margin = tuned.compute_precision, tuned.fallback_margin
                _log.debug("tuned for this machine: %s", tuned)
                return cls._open(
                    bundle,
                    tuned.backend,
                    strategy,
                    tuned.batch_size,
                    tuned.threads,
                    precision,
                    margin,
                    require_verified=True,  # "auto" was asked for
                )
            except BackendError as error:
                _log.warning("ignoring tuned.json: %s", error)
                strategy = None
        return cls._open(bundle, backend, strategy, batch_size, threads, compute_precision or "native", fallback_margin)

    @classmethod
    def _open(
        cls,
        bundle: Bundle,
        backend: BackendName,
        strategy: Strategy | None,
        batch_size: int | None,
        threads: int | None,
        compute_precision: ComputePrecision,
        fallback_margin: float | None,
        *,
        require_verified: bool = False,
    ) -> Recognizer:
        if fallback_margin is not None and not fallback_margin >= 0:
            raise StrategyError(
                f"fallback_margin must be 0 or more (a difference of log-probabilities), got {fallback_margin}"
            )
        with contextlib.ExitStack() as opened:
            quick = open_backend(
                bundle,
                backend,
                threads=threads,
                compute_precision=compute_precision,
                require_verified=require_verified,
            )
            opened.callback(quick.close)
            if compute_precision in REDUCED_PRECISIONS and fallback_margin is None:
                raise StrategyError(
                    f"{compute_precision} may change low-margin tokens; pass fallback_margin (--fallback-margin), the "
                    "margin that `seqpar tune` prints, or 0 to accept the changes"
                )
            low_margin = None
            if compute_precision in REDUCED_PRECISIONS and fallback_margin:
                exact = open_backend(bundle, quick.name, threads=threads)  # type: ignore[arg-type]
                opened.callback(exact.close)
                low_margin = Fallback(exact, fallback_margin)
            recognizer = cls(bundle, quick, strategy=strategy, batch_size=batch_size, fallback=low_margin)
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
            if self._fallback:
                generations = self._with_fallback(self._fallback, prepared, generations)
            for generation in generations:
                yield prediction_from_generation(generation, self.bundle.label_set)

    def _encode(self, crops: Sequence[Crop]) -> tuple[CropBatch, Any]:
        """Prepared crops (B, H, W, 3) and the state they start."""
        image_size = self.bundle.dimensions.image_size
        prepared = prepare_batch(crops, image_size=image_size, preprocessing=self.bundle.preprocessing)
        return prepared, self.backend.encode(prepared)

    def _generate(self, backend: Backend[Any], state: Any) -> list[Generation]:
        return self.strategy.generate(backend, state, max_steps=self.bundle.dimensions.capacity - 1)

    def _with_fallback(
        self, fallback: Fallback, prepared: CropBatch, generations: list[Generation]
    ) -> list[Generation]:
        """Replace low-margin generations by those of native precision."""
        # NaN is not known to be above anything.
        low = [row for row, generation in enumerate(generations) if not generation.margin >= fallback.margin]
        if not low:
            return generations
        _log.debug("re-running %d of %d crops in native precision", len(low), len(generations))
        exact = self._generate(fallback.backend, fallback.backend.encode(prepared[low]))
        again = dict(zip(low, exact, strict=True))
        return [again.get(row, generation) for row, generation in enumerate(generations)]

    def close(self) -> None:
        """Release the backend. Safe to call twice."""
        with contextlib.ExitStack() as closing:
            if self._fallback is not None:
                closing.callback(self._fallback.backend.close)
            if self._backend is not None:
                closing.callback(self._backend.close)
                self._backend = None

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _one_ahead(batches: Iterator[tuple[CropBatch, Any]]) -> Iterator[tuple[CropBatch, Any]]:
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
