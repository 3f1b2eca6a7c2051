"""A ladder of alternatives: each rung does the same work end to end, from raw crops to attributes.

The rungs take turns, so that a machine whose speed drifts is the same machine for all of them; ratios are of medians
within one run. Tokens are compared as well: a faster rung that says something else is no rung.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqpar_deploy.backends import Backend
from seqpar_deploy.bundle import Dimensions
from seqpar_deploy.decoding import Greedy, Strategy
from seqpar_deploy.preprocess import Crop, Preprocessing, prepare_batch

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """One alternative: a backend, how it decodes, and what is to be known about it."""

    name: str
    description: str
    backend: Backend[Any]
    strategy: Strategy = Greedy()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of every run of one rung, and whether its tokens were those of the reference.

    `seconds` are end to end; `encode_seconds` and `decode_seconds` are the medians of its two stages.
    """

    name: str
    description: str
    seconds: tuple[float, ...]
    encode_seconds: float
    decode_seconds: float
    steps: int
    identical: bool

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "median": self.median, "p95": float(np.quantile(self.seconds, 0.95))}


def run_ladder(
    rungs: Sequence[Rung],
    crops: Sequence[Crop],
    *,
    dimensions: Dimensions,
    preprocessing: Preprocessing,
    runs: int,
    warmup: int = 1,
    progress: Progress | None = None,
) -> list[Timing]:
    """Time every rung on the same crops as one batch, `runs` times after `warmup`. The first rung is the reference."""
    max_steps = dimensions.capacity - 1
    measured: list[list[tuple[float, float, float]]] = [[] for _ in rungs]
    tokens: list[list[tuple[int, ...]]] = [[] for _ in rungs]
    steps: list[list[int]] = [[] for _ in rungs]
    for run in range(warmup + runs):
        for place, rung in enumerate(rungs):
            start = time.perf_counter()
            batch = prepare_batch(crops, image_size=dimensions.image_size, preprocessing=preprocessing)
            prepared = time.perf_counter()
            state = rung.backend.encode(batch)
            encoded = time.perf_counter()
            generations = rung.strategy.generate(rung.backend, state, max_steps=max_steps)
            end = time.perf_counter()
            tokens[place] = [generation.tokens for generation in generations]
            steps[place] = [generation.steps for generation in generations]
            if run >= warmup:
                measured[place].append((end - start, encoded - prepared, end - encoded))
            if progress:
                progress(run * len(rungs) + place + 1, (warmup + runs) * len(rungs))
    timings = []
    for place, (rung, rows) in enumerate(zip(rungs, measured, strict=True)):
        total, encode, decode = zip(*rows, strict=True)
        timings.append(
            Timing(
                name=rung.name,
                description=rung.description,
                seconds=total,
                encode_seconds=float(np.median(encode)),
                decode_seconds=float(np.median(decode)),
                steps=max(steps[place]),
                identical=tokens[place] == tokens[0],
            )
        )
    return timings


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
                str(timing.steps),
                f"{timings[0].median / timing.median:.2f}x",
                "identical" if timing.identical else "DIFFERENT",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(text.ljust(widths[0]) if column == 0 else text.rjust(widths[column]) for column, text in enumerate(row))
        for row in rows
    )
