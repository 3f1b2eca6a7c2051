"""Compare variants: each does the same work end to end, from raw crops to attributes.

Variants are interleaved, so that a drift of the machine's speed affects all of them equally. Ratios are of medians
within one run. Each turn uses other crops, since decoding time depends on the crop. Tokens are compared too: a faster
variant that returns other tokens does not count.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends import Backend, StepOutput
from seqpar_deploy.backends.base import GreedyBackend, Int64Array
from seqpar_deploy.bench.energy import ReadJoules, open_meter
from seqpar_deploy.bench.timing import median_seconds
from seqpar_deploy.bundle import Dimensions
from seqpar_deploy.decoding import Generation, Greedy, Strategy
from seqpar_deploy.preprocess import Crop, CropBatch, Preprocessing, Trimming, columns_read, prepare_by_columns
from seqpar_deploy.progress import OnProgress

SETTLE = 0.3  # seconds before each turn: worker threads of the previous runtime keep spinning for a while


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run the model: a backend and a decoding strategy.

    Attributes:
        precision: Precision that it computes in.
        reduced: Whether that precision is lower than the bundle's, so that other tokens are allowed.
        as_bundle: Whether encoding and stepping perform the FLOPs of the bundle's graphs.
        cold_start: Arguments of a process that does the same, or None.
        one_batch: Whether only the batch size of the comparison is possible.
        trimming: How it trims crops, or None if it reads them with all their padding. Tokens are compared with those of
            variants that read crops in the same way.
    """

    name: str
    description: str
    backend: Backend[Any]
    strategy: Strategy = Greedy()
    precision: str = "fp32"
    reduced: bool = False
    as_bundle: bool = False
    cold_start: tuple[str, ...] | None = None
    one_batch: bool = False
    trimming: Trimming | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """Hold raw crops, and the settings to prepare them as batches."""

    crops: Sequence[Crop]
    dimensions: Dimensions
    preprocessing: Preprocessing

    def chosen(self, start: int, batch: int) -> list[Crop]:
        """Return `batch` crops from index `start` on, modulo their number."""
        return [self.crops[(start + i) % len(self.crops)] for i in range(batch)]

    def prepared(self, crops: Sequence[Crop], trimming: Trimming | None) -> list[tuple[list[int], CropBatch]]:
        """Return batches of one width each: the rows of their crops, and prepared crops (B, H, W, 3)."""
        image_size, preprocessing = self.dimensions.image_size, self.preprocessing
        return list(
            prepare_by_columns(crops, len(crops), trimming=trimming, image_size=image_size, preprocessing=preprocessing)
        )

    def columns(self, crop: Crop, trimming: Trimming | None) -> int:
        """Return the number of patch columns that are read of a crop."""
        return columns_read(crop, trimming, self.preprocessing) or self.dimensions.grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stages:
    """Seconds per stage of one run: preprocessing, encoder, decoder steps, and the rest, which is Python."""

    preprocess: float
    encode: float
    decode: float
    host: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Hold all runs of one variant.

    Attributes:
        variant: The variant.
        is_reference: Whether the other variants' tokens are compared with this one's.
        seconds: Seconds per run, end to end.
        stages: Median seconds per stage.
        steps: Median decoder steps per run.
        step_seconds: Median seconds per decoder step.
        joules_per_crop: Energy, or None if the machine has no readable counter.
        identical: Whether every run returned the tokens of the reference: the first variant that is not reduced and
            reads crops in the same way.
    """

    variant: Variant
    is_reference: bool
    seconds: tuple[float, ...]
    stages: Stages
    steps: float
    step_seconds: float
    joules_per_crop: float | None
    identical: bool

    @property
    def p50(self) -> float:
        return self.percentile(50)

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, share))


@dataclasses.dataclass(frozen=True)
class _Turn:
    seconds: float
    stages: Stages
    joules: float | None
    generations: list[Generation]

    @property
    def steps(self) -> int:
        return max(generation.steps for generation in self.generations)

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        return [generation.tokens for generation in self.generations]


def run_comparison(
    variants: Sequence[Variant],
    given: Input,
    *,
    runs: int,
    batch: int = 1,
    warmup: int = 1,
    on_progress: OnProgress | None = None,
) -> list[Timing]:
    """Time every variant `runs` times after `warmup` runs, each time on the next `batch` crops."""
    meters = {device: open_meter(device) for device in {variant.backend.device for variant in variants}}
    turns: list[list[_Turn]] = [[] for _ in variants]
    for run in range(warmup + runs):
        chosen = given.chosen(run * batch, batch)
        for place, variant in enumerate(variants):
            time.sleep(SETTLE)
            turns[place].append(_take_turn(variant, chosen, given, meters[variant.backend.device]))
            if on_progress:
                on_progress(run * len(variants) + place + 1, (warmup + runs) * len(variants))
    return [
        _timing(variant, taken, turns[_reference(variants, variant)], warmup, batch)
        for variant, taken in zip(variants, turns, strict=True)
    ]


def _reference(variants: Sequence[Variant], variant: Variant) -> int:
    """Return the place of the variant whose tokens another one must return."""
    alike = [place for place, other in enumerate(variants) if other.trimming == variant.trimming]
    return next((place for place in alike if not variants[place].reduced), alike[0])


def measure_throughput(variant: Variant, given: Input, batch: int, *, seconds: float) -> float:
    """Return crops per second in batches of this size, from raw crops to attributes.

    It is the median of runs for about `seconds`, after one warm-up run.
    """
    crops, max_steps = given.chosen(0, batch), given.dimensions.capacity - 1

    def work() -> None:
        for _, prepared in given.prepared(crops, variant.trimming):
            variant.strategy.generate(variant.backend, variant.backend.encode(prepared), max_steps=max_steps)

    return batch / median_seconds(work, seconds=seconds, least=1)


def _take_turn(variant: Variant, crops: Sequence[Crop], given: Input, meter: ReadJoules | None) -> _Turn:
    # A GreedyBackend decodes without calls of `step`, so its decoding is timed as a whole.
    watch = None if isinstance(variant.backend, GreedyBackend) else _Stopwatch(variant.backend)
    before = meter() if meter else 0.0
    start = time.perf_counter()
    batches = given.prepared(crops, variant.trimming)
    preprocess = time.perf_counter() - start
    max_steps = given.dimensions.capacity - 1
    generations: dict[int, Generation] = {}
    encode = generate = 0.0
    for rows, prepared in batches:
        encode_start = time.perf_counter()
        state = variant.backend.encode(prepared)
        decode_start = time.perf_counter()
        found = variant.strategy.generate(watch or variant.backend, state, max_steps=max_steps)
        generations |= zip(rows, found, strict=True)
        encode += decode_start - encode_start
        generate += time.perf_counter() - decode_start
    decode = watch.seconds if watch else generate
    stages = Stages(preprocess=preprocess, encode=encode, decode=decode, host=generate - decode)
    joules = meter() - before if meter else None
    return _Turn(preprocess + encode + generate, stages, joules, [generations[row] for row in sorted(generations)])


class _Stopwatch:
    """Wrap a backend, and add up the seconds of its steps."""

    def __init__(self, backend: Backend[Any]) -> None:
        self._backend = backend
        self.name, self.device, self.max_rows = backend.name, backend.device, backend.max_rows
        self.seconds = 0.0

    def encode(self, crops: npt.NDArray[np.uint8]) -> Any:
        return self._backend.encode(crops)

    def step(self, state: Any, tokens: Int64Array) -> StepOutput:
        start = time.perf_counter()
        output = self._backend.step(state, tokens)
        self.seconds += time.perf_counter() - start
        return output

    def close(self) -> None:
        self._backend.close()


def _timing(variant: Variant, turns: Sequence[_Turn], reference: Sequence[_Turn], warmup: int, batch: int) -> Timing:
    timed = turns[warmup:]
    joules = [turn.joules for turn in timed if turn.joules is not None]
    stages = (field.name for field in dataclasses.fields(Stages))
    return Timing(
        variant=variant,
        is_reference=turns is reference,
        seconds=tuple(turn.seconds for turn in timed),
        stages=Stages(**{name: float(np.median([getattr(turn.stages, name) for turn in timed])) for name in stages}),
        steps=float(np.median([turn.steps for turn in timed])),
        step_seconds=float(np.median([turn.stages.decode / turn.steps for turn in timed])),
        joules_per_crop=sum(joules) / (len(joules) * batch) if joules else None,
        identical=all(turn.tokens == expected.tokens for turn, expected in zip(turns, reference, strict=True)),
    )
