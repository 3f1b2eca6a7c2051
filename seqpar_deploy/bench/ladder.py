"""A ladder of alternatives: each rung does the same work end to end, from raw crops to attributes.

The rungs take turns, so that a machine whose speed drifts is the same machine for all of them; ratios are of medians
within one run. Each turn brings other crops, because decoding takes longer for some than for others. Tokens are
compared as well: a faster rung that says something else is no rung.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqpar_deploy.backends import Backend
from seqpar_deploy.bundle import Dimensions
from seqpar_deploy.decoding import Generation, Greedy, Strategy
from seqpar_deploy.preprocess import Crop, Preprocessing, prepare_batch

Progress = Callable[[int, int], None]

SETTLE = 0.3  # seconds before each turn: worker threads of the runtime that went before spin for a while


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """One alternative: a backend, how it decodes, and what is to be known about it."""

    name: str
    description: str
    backend: Backend[Any]
    strategy: Strategy = Greedy()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of every run of one rung, and whether its tokens were always those of the first rung.

    `seconds` are end to end; `encode_seconds`, `decode_seconds` and `steps` (of the decoder) are medians.
    """

    name: str
    description: str
    seconds: tuple[float, ...]
    encode_seconds: float
    decode_seconds: float
    steps: float
    identical: bool

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "median": self.median, "p95": float(np.quantile(self.seconds, 0.95))}


@dataclasses.dataclass(frozen=True)
class _Turn:
    seconds: float
    encode_seconds: float
    decode_seconds: float
    generations: list[Generation]

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        return [generation.tokens for generation in self.generations]


def run_ladder(
    rungs: Sequence[Rung],
    crops: Sequence[Crop],
    *,
    dimensions: Dimensions,
    preprocessing: Preprocessing,
    runs: int,
    batch: int = 1,
    warmup: int = 1,
    progress: Progress | None = None,
) -> list[Timing]:
    """Time every rung `runs` times after `warmup`, each time on the next `batch` of the crops, which go round."""
    turns: list[list[_Turn]] = [[] for _ in rungs]
    for run in range(warmup + runs):
        chosen = [crops[(run * batch + i) % len(crops)] for i in range(batch)]
        for place, rung in enumerate(rungs):
            time.sleep(SETTLE)
            turns[place].append(_take_turn(rung, chosen, dimensions, preprocessing))
            if progress:
                progress(run * len(rungs) + place + 1, (warmup + runs) * len(rungs))
    return [_timing(rung, taken, turns[0], warmup) for rung, taken in zip(rungs, turns, strict=True)]


def _take_turn(rung: Rung, crops: Sequence[Crop], dimensions: Dimensions, preprocessing: Preprocessing) -> _Turn:
    start = time.perf_counter()
    prepared = prepare_batch(crops, image_size=dimensions.image_size, preprocessing=preprocessing)
    encode_start = time.perf_counter()
    state = rung.backend.encode(prepared)
    decode_start = time.perf_counter()
    generations = rung.strategy.generate(rung.backend, state, max_steps=dimensions.capacity - 1)
    end = time.perf_counter()
    return _Turn(end - start, decode_start - encode_start, end - decode_start, generations)


def _timing(rung: Rung, turns: Sequence[_Turn], reference: Sequence[_Turn], warmup: int) -> Timing:
    timed = turns[warmup:]
    return Timing(
        name=rung.name,
        description=rung.description,
        seconds=tuple(turn.seconds for turn in timed),
        encode_seconds=float(np.median([turn.encode_seconds for turn in timed])),
        decode_seconds=float(np.median([turn.decode_seconds for turn in timed])),
        steps=float(np.median([max(generation.steps for generation in turn.generations) for turn in timed])),
        identical=all(turn.tokens == wanted.tokens for turn, wanted in zip(turns, reference, strict=True)),
    )


def format_table(timings: Sequence[Timing]) -> str:
    """The ladder for a person: medians in milliseconds, and how many times faster than the first rung each is."""
    rows = [("", "ms", "encode", "decode", "steps", "faster", "tokens")]
    for timing in timings:
        rows.append(
            (
                timing.description,
                f"{timing.median * 1e3:.1f}",
                f"{timing.encode_seconds * 1e3:.1f}",
                f"{timing.decode_seconds * 1e3:.1f}",
                f"{timing.steps:g}",
                f"{timings[0].median / timing.median:.2f}x",
                "identical" if timing.identical else "DIFFERENT",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
