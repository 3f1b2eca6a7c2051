"""Measure what trimmed crops would gain with a model that was made for crops with all their padding.

Trimming shifts log-probabilities, as a reduced precision does, so a crop with a low margin would have to be run again
with all its padding. The shift is that of tokens which the model no longer reads, and not of rounding: on the demo
model it is so large that nearly every crop runs twice (`benchmarks/results/trimming.json`). So this is measured and
shown, and never chosen. A model that is redefined as trimmed needs no re-runs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqpar_deploy.backends import Backend
from seqpar_deploy.bench.margins import Reference, decode_along, differences, measure_shifts, prepare
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.preprocess import Crop, Trimming, default_columns
from seqpar_deploy.progress import OnProgress

_ROUNDS = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrimmedWay:
    """Hold what trimmed crops would gain.

    Attributes:
        backend: Name of the backend, in native precision.
        columns: The widths in patch columns.
        narrow_share: Share of the crops that are trimmed, 0 to 1.
        fallback_margin: Trimmed crops with a margin below this value would be re-run with all padding.
        token_shift: The shift that 99.9 % of the tokens' margins do not exceed, of trimmed crops.
        log_odds_shift: The shift that 99.9 % of the probabilities' log-odds do not exceed, of trimmed crops.
        fallback_share: Share of all crops that would be re-run, 0 to 1.
        different: Crops with other tokens than with all padding, or other states if the bundle has a calibration.
        different_after_fallback: Those of them that would not be re-run.
        seconds: Seconds per crop, end to end, without re-runs.
        expected_seconds: Seconds per crop with the average cost of re-runs.
        full_seconds: Seconds per crop with all padding.
    """

    backend: str
    columns: tuple[int, ...]
    narrow_share: float
    fallback_margin: float
    token_shift: float
    log_odds_shift: float
    fallback_share: float
    different: int
    different_after_fallback: int
    seconds: float
    expected_seconds: float
    full_seconds: float

    def row(self) -> tuple[str, ...]:
        """Return the row of the table of `seqpar tune`."""
        return (
            f"  {self.backend}, native, trimmed (not chosen)",
            f"{self.seconds * 1e3:.1f}",
            f"{self.fallback_margin:.3f}",
            f"{self.fallback_share:.1%}",
            str(self.different),
            str(self.different_after_fallback),
            f"{self.expected_seconds * 1e3:.1f}",
        )

    def text(self) -> str:
        """Return what the row means."""
        return (
            f"trimmed: this model was made for crops with all their padding. With re-runs of {self.fallback_share:.0%} "
            f"of the crops, trimming\n  takes {self.expected_seconds / self.full_seconds:.2f} times as long as reading "
            "all padding. It is not chosen. To use it without re-runs, see seqpar eval --trim"
        )


def measure_trimmed(
    bundle: Bundle,
    backend: Backend[Any],
    crops: Sequence[Crop],
    reference: Reference,
    full_seconds: float,
    on_progress: OnProgress,
) -> TrimmedWay | None:
    """Run the crops that can be trimmed, and compare them with the reference.

    Args:
        bundle: The bundle.
        backend: Runs it in native precision.
        crops: Raw crops.
        reference: The results of native precision on all of them.
        full_seconds: Seconds per crop with all padding.
        on_progress: Receives the progress.

    Returns:
        The measurements, or None if the bundle is trimmed, cannot read trimmed crops, or no crop can be trimmed.
    """
    if bundle.trimming is not None or not bundle.reads_any_width:
        return None
    grid = bundle.dimensions.grid
    trimming = Trimming(columns=default_columns(grid), patch_size=bundle.dimensions.patch_size)
    narrow = [row for row, crop in enumerate(crops) if trimming.columns_of(crop, bundle.preprocessing) < grid]
    if not narrow:
        return None
    some, wanted = [crops[row] for row in narrow], reference.of(narrow)
    found, log_probs = decode_along(bundle, backend, prepare(bundle, some, trimming), wanted, on_progress)
    shifts = measure_shifts(log_probs, wanted)
    different, low = differences(bundle, found, wanted, shifts.margin)
    share = len(narrow) / len(crops)
    seconds = full_seconds * (1 - share + share * _relative_time(bundle, backend, some, trimming))
    fallback_share = float(low.mean()) * share
    return TrimmedWay(
        backend=backend.name,
        columns=trimming.columns,
        narrow_share=share,
        fallback_margin=shifts.margin,
        token_shift=shifts.tokens,
        log_odds_shift=shifts.log_odds,
        fallback_share=fallback_share,
        different=int(different.sum()),
        different_after_fallback=int((different & ~low).sum()),
        seconds=seconds,
        expected_seconds=seconds + fallback_share * full_seconds,
        full_seconds=full_seconds,
    )


def _relative_time(bundle: Bundle, backend: Backend[Any], crops: Sequence[Crop], trimming: Trimming) -> float:
    """Return the median time of a trimmed crop, end to end, over that of the same crop with all padding."""
    ratios = []
    for turn in range(_ROUNDS + 1):
        crop = crops[turn % len(crops)]
        full, trimmed = (_seconds(bundle, backend, crop, some) for some in (None, trimming))
        ratios.append(trimmed / full)
    return float(np.median(ratios[1:]))  # the first run is a warm-up


def _seconds(bundle: Bundle, backend: Backend[Any], crop: Crop, trimming: Trimming | None) -> float:
    start = time.perf_counter()
    prepared = prepare(bundle, [crop], trimming)
    Greedy().generate(backend, backend.encode(prepared.batch([0])), max_steps=bundle.dimensions.capacity - 1)
    return time.perf_counter() - start
