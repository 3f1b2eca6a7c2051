"""The main interface for applications: crops in, attributes out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from seqpar_deploy.ahead import map_ahead
from seqpar_deploy.backends import Backend, BackendName, ComputePrecision, open_backend
from seqpar_deploy.backends.base import REDUCED_PRECISIONS, GreedyBackend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.sidecar import Calibration, load_calibration
from seqpar_deploy.calibration.thresholds import Thresholds, read_thresholds
from seqpar_deploy.decoding import DraftHead, Generation, Greedy, Strategy
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.decoding.choice import default_strategy, largest_batch, small_batches, verifying, with_head
from seqpar_deploy.decoding.drafts import check_drafts, load_head
from seqpar_deploy.errors import BackendError, StrategyError
from seqpar_deploy.prediction import Prediction, predictions_from_generations, smallest_margin
from seqpar_deploy.preprocess import Crop, CropBatch, batches_by_columns, check_crop, columns_read, prepare_trimmed
from seqpar_deploy.tuned import load_tuned
from seqpar_deploy.without import Boundary

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Fallback:
    """Re-run low-margin crops in native precision.

    Attributes:
        backend: The backend in native precision.
        margin: Crops are re-run if any token's margin is below this difference of log-probabilities, or if such a
            change of the log-odds of an attribute could change its state.
    """

    backend: Backend[Any]
    margin: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Batch:
    """Hold crops that are decoded together: their rows among all crops, prepared (B, H, W, 3), and their state."""

    rows: Sequence[int]
    prepared: CropBatch
    state: Any


class Recognizer:
    """Recognise attributes on crops of people. Use it as a context manager. Threads may share one.

    Open one with `Recognizer.from_bundle`. The constructor is for a backend of your own.

    Args:
        bundle: The opened bundle.
        backend: The opened backend. `close` releases it.
        strategy: The decoding strategy. Default: `default_strategy`. `Speculative` without a head uses `draft_head`.
        batch_size: Crops per batch, 1 or more. Default: as many as the bundle's largest profile allows.
        fallback: Re-runs low-margin crops. Default: none.
        draft_head: Drafts sequences. Default: none.
        calibration: Calibrates the probabilities. Default: none.
        thresholds: Thresholds of the states. Default: those of `calibration`, if there is one.

    Attributes:
        bundle: The opened bundle.
        label_set: The label set of predictions: the bundle's, without the attributes that it withholds.
        strategy: The decoding strategy.
        calibration: The calibration of the label set, or None.
        thresholds: The thresholds of the label set, or None.

    Raises:
        StrategyError: `batch_size` is less than 1.

    Examples:
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
        calibration: Calibration | None = None,
        thresholds: Thresholds | None = None,
        draft_head: DraftHead | None = None,
    ) -> None:
        self.bundle, self.label_set = bundle, bundle.shown
        self._boundary = Boundary(bundle.label_set, bundle.withheld) if bundle.withheld else None
        self.calibration = calibration.limited_to(bundle.shown) if calibration and bundle.withheld else calibration
        self._maps = None if calibration is None else calibration.maps
        if thresholds is None and calibration is not None:
            thresholds = calibration.thresholds(bundle.label_set)
        self._limits = thresholds  # of all attributes of the model
        self.thresholds = self._boundary.thresholds(thresholds) if self._boundary else thresholds
        self.strategy: Strategy = (
            default_strategy(backend, draft_head) if strategy is None else with_head(strategy, draft_head)
        )
        if batch_size is not None and batch_size < 1:
            raise StrategyError(f"batch_size must be 1 or more, got {batch_size}; leave it out for the default")
        self._batch_size = largest_batch(bundle.max_batch, backend, self.strategy, batch_size)
        self._backend: Backend[Any] | None = backend
        self._fallback = fallback
        self._threads: int | None = None  # to prepare crops; None is all cores

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
        thresholds: str | Path | Thresholds | None = None,
        verify: bool = True,
    ) -> Recognizer:
        """Open a bundle and load it on a backend.

        If the bundle has a calibration (`seqpar calibrate`), probabilities are calibrated and states follow its
        thresholds.

        If only `path`, `thresholds` and `verify` are given, the fastest settings that `seqpar tune` stored for this
        bundle and machine are used. Without stored settings, the defaults below apply.

        Args:
            path: The bundle's folder.
            backend: Name of the backend. Default: `auto`, the first that opens the bundle. Of the NVIDIA backends,
                `auto` uses only those that reproduce the bundle's golden sequences on this machine, which is checked
                once. A backend that you name is opened without this check.
            strategy: The decoding strategy. Default: greedy decoding, speculatively where the bundle's drafts save
                time, see `default_strategy`. Tokens are the same. `Greedy()` never speculates.
            batch_size: Crops per batch, 1 or more. Default: as many as the bundle's largest profile allows.
            threads: CPU threads per inference, 1 to 1024. Default: the runtime's choice within the CPU quota.
            compute_precision: `native`, `bf16` or `int8`. Default: `native`, the precision of the bundle's graphs.
                `bf16` and `int8` are faster and require `fallback_margin`.
            fallback_margin: Re-run a crop in native precision if any token's margin, a difference of
                log-probabilities, is below this value, or if such a change of an attribute's log-odds could change its
                state. 0 re-runs none, so low-margin tokens and states may change. Default: none.
            thresholds: Thresholds of the states, or the path of their TOML file. Default: those of the calibration.
            verify: Check the SHA-256 of every file. Default: True.

        Returns:
            A recogniser. Close it, or use it in a `with` statement.

        Raises:
            BundleError: The bundle cannot be opened.
            BackendUnavailableError: The backend's SDK is missing, or it cannot compute in this precision.
            BackendError: The backend cannot run this bundle.
            StrategyError: `batch_size` or `fallback_margin` is out of range, or `fallback_margin` is missing.
            CalibrationError: The thresholds file cannot be read.

        Examples:
            >>> from seqpar_deploy import Recognizer, Speculative
            >>> recognizer = Recognizer.from_bundle("bundles/peta", backend="openvino", strategy=Speculative())
        """
        bundle = Bundle.open(path, verify=verify)
        if isinstance(thresholds, (str, Path)):
            thresholds = read_thresholds(Path(thresholds), bundle.label_set)
        given = (strategy, batch_size, threads, compute_precision, fallback_margin)
        if backend == "auto" and all(option is None for option in given) and (tuned := load_tuned(bundle)):
            try:
                strategy = small_batches(None) if tuned.speculative else Greedy()
                precision, margin = tuned.compute_precision, tuned.fallback_margin
                _log.debug("using the settings tuned for this machine: %s", tuned)
                return cls._open(
                    bundle,
                    tuned.backend,
                    strategy,
                    tuned.batch_size,
                    tuned.threads,
                    precision,
                    margin,
                    thresholds,
                    require_verified=True,  # as for `auto`, which the caller chose
                )
            except BackendError as error:
                _log.warning("ignoring tuned.json: %s", error)
                strategy = None
        precision = compute_precision or "native"
        return cls._open(bundle, backend, strategy, batch_size, threads, precision, fallback_margin, thresholds)

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
        thresholds: Thresholds | None,
        *,
        require_verified: bool = False,
    ) -> Recognizer:
        if fallback_margin is not None and not fallback_margin >= 0:
            raise StrategyError(
                f"fallback_margin must be 0 or more (a difference of log-probabilities), got {fallback_margin}; "
                "pass the margin that `seqpar tune` prints"
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
                    f"fallback_margin must be given for {compute_precision}, which may change low-margin tokens; pass "
                    "the margin that `seqpar tune` prints (--fallback-margin), or 0 to accept changes"
                )
            low_margin = None
            if compute_precision in REDUCED_PRECISIONS and fallback_margin:
                exact = open_backend(bundle, quick.name, threads=threads)  # type: ignore[arg-type]
                opened.callback(exact.close)
                low_margin = Fallback(exact, fallback_margin)
            recognizer = cls(
                bundle,
                quick,
                strategy=strategy,
                batch_size=batch_size,
                fallback=low_margin,
                calibration=load_calibration(bundle),
                thresholds=thresholds,
                draft_head=load_head(bundle),
            )
            recognizer._threads = threads
            opened.pop_all()
        return recognizer

    @property
    def backend(self) -> Backend[Any]:
        """The backend in use. Raises BackendError after `close`."""
        if self._backend is None:
            raise BackendError("this Recognizer is closed; open the bundle again")
        return self._backend

    def predict(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> list[Prediction]:
        """Recognise the attributes of each crop.

        Args:
            crops: Crops of one person each, uint8 RGB (h, w, 3) of any size.
            drafts: A guess of each crop's tokens, for example `Prediction.tokens` of the same person in an earlier
                frame, or None for a crop without one. Drafts save time with speculative decoding, and never change a
                prediction. Default: none.

        Returns:
            One prediction per crop, in the same order.

        Raises:
            ImageError: A crop is not a uint8 RGB image. No crop is processed.
            StrategyError: The beam width is too large for the vocabulary, or a draft has a token that is not in it, or
                there is not one draft per crop.
            BackendError: The recogniser is closed, or the backend fails.

        Examples:
            >>> crops = [read_image(path) for path in ("a.jpg", "b.jpg")]
            >>> for prediction in recognizer.predict(crops):
            ...     print(dict(zip(prediction.attributes, prediction.scores)))
        """
        return list(self.predict_iter(crops, drafts=drafts))

    def predict_iter(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> Iterator[Prediction]:
        """Recognise the attributes of each crop, and yield the predictions batch by batch.

        Use it to show progress. All crops are checked before the first batch. If crops are trimmed, those of one width
        form a batch, and predictions wait for those of crops before them.

        Args:
            crops: Crops of one person each, uint8 RGB (h, w, 3) of any size.
            drafts: As of `predict`.

        Yields:
            One prediction per crop, in the same order.

        Raises:
            ImageError: A crop is not a uint8 RGB image.
            StrategyError: As `predict`.
            BackendError: The recogniser is closed, or the backend fails.
        """
        for index, crop in enumerate(crops):
            check_crop(crop, f"crops[{index}]")
        if self._boundary is not None:
            drafts = self._boundary.drafts(drafts, len(crops))
        elif drafts is not None:
            try:
                check_drafts(drafts, len(crops), self.bundle.dimensions.vocabulary)
            except ValueError as error:
                raise StrategyError(str(error)) from None
        columns = [columns_read(crop, self.bundle.trimming, self.bundle.preprocessing) for crop in crops]

        def prepare(rows: Sequence[int]) -> CropBatch:
            return self._prepare([crops[row] for row in rows], columns[rows[0]])

        in_batches = batches_by_columns(columns, self._batch_size)
        done: dict[int, Prediction] = {}  # by crop, those that wait for crops before them
        following = 0
        with contextlib.closing(map_ahead(prepare, in_batches)) as in_order:
            # On CPUs, encoding the next batch meanwhile too gained a few percent at batch 8 and 32, lost 10 % at batch
            # 1, and would hold a second batch's cache (docs/architecture.md).
            batches = (
                _Batch(rows=rows, prepared=prepared, state=self.backend.encode(prepared))
                for rows, prepared in zip(in_batches, in_order, strict=True)
            )
            for batch in _one_ahead(batches) if isinstance(self.backend, GreedyBackend) else batches:
                some = None if drafts is None else [drafts[row] for row in batch.rows]
                done |= zip(batch.rows, self._predictions(batch, some), strict=True)
                while following in done:
                    yield done.pop(following)
                    following += 1

    def _predictions(self, batch: _Batch, drafts: Sequence[Draft] | None) -> list[Prediction]:
        generations = self._generate(self.backend, batch.state, drafts)
        if self._fallback:
            generations = self._with_fallback(self._fallback, batch.prepared, generations)
        whole = self.bundle.label_set
        predictions = predictions_from_generations(generations, whole, maps=self._maps, thresholds=self._limits)
        return predictions if self._boundary is None else [self._boundary.prediction(one) for one in predictions]

    def _prepare(self, crops: Sequence[Crop], columns: int) -> CropBatch:
        """Prepare crops that are read with the same number of patch columns."""
        return prepare_trimmed(
            crops,
            columns,
            trimming=self.bundle.trimming,
            image_size=self.bundle.dimensions.image_size,
            preprocessing=self.bundle.preprocessing,
            threads=self._threads,
        )

    def _generate(
        self,
        backend: Backend[Any],
        state: Any,
        drafts: Sequence[Draft] | None = None,
        strategy: Strategy | None = None,
    ) -> list[Generation]:
        max_steps = self.bundle.dimensions.capacity - 1
        return (strategy or self.strategy).generate(backend, state, max_steps=max_steps, drafts=drafts)

    def _with_fallback(
        self, fallback: Fallback, prepared: CropBatch, generations: list[Generation]
    ) -> list[Generation]:
        """Replace low-margin generations with those of native precision."""
        # `not >=` also re-runs a crop whose margin is NaN.
        low = [row for row, generation in enumerate(generations) if not self._margin(generation) >= fallback.margin]
        if not low:
            return generations
        _log.debug("re-running %d of %d crops in native precision", len(low), len(generations))
        drafts = [generations[row].tokens for row in low]
        state = fallback.backend.encode(prepared[low])
        exact = self._generate(fallback.backend, state, drafts, verifying(self.strategy))
        again = dict(zip(low, exact, strict=True))
        return [again.get(row, generation) for row, generation in enumerate(generations)]

    def _margin(self, generation: Generation) -> float:
        return smallest_margin(generation, self._maps, self._limits)

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


def _one_ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """Yield each batch after the next one has been started, so that a device encodes the next one meanwhile."""
    following = next(batches, None)
    while following is not None:
        batch, following = following, next(batches, None)
        yield batch
