"""Compare two benchmark results variant by variant, to find regressions."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqpar_deploy.bench.table import format_columns
from seqpar_deploy.errors import SeqparError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression:
    """Hold the comparison of two results.

    Attributes:
        medians: The two medians of each variant that both results have, in seconds.
        notes: Other differences, one line each.
        lost: Variants that only the first result has, or that return the reference's tokens in the first only.
    """

    medians: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...]
    lost: tuple[str, ...]

    @property
    def ratios(self) -> dict[str, float]:
        """The second median over the first, per variant."""
        return {name: second / first for name, (first, second) in self.medians.items()}

    def slower_than(self, factor: float) -> dict[str, float]:
        """The variants whose ratio is above `factor`, or not a number."""
        return {name: ratio for name, ratio in self.ratios.items() if not ratio <= factor}

    def format(self) -> str:
        """Format the medians as a table, then the notes."""
        rows = [("variant, ms", "first", "second", "second / first")]
        for name, (first, second) in self.medians.items():
            rows.append((name, f"{1e3 * first:.1f}", f"{1e3 * second:.1f}", f"{second / first:.3f}"))
        return "\n".join([format_columns(rows), *(f"note: {note}" for note in self.notes)])


def compare(first: Path, second: Path, *, variant: str | None = None) -> Regression:
    """Compare two result files of `seqpar-bench`, in all variants or in one. Raises SeqparError."""
    results = [_read(first), _read(second)]
    medians = [_medians(result, path) for result, path in zip(results, (first, second), strict=True)]
    if variant is not None:
        for found, path in zip(medians, (first, second), strict=True):
            if variant not in found:
                raise SeqparError(f"variant must be one of {', '.join(found)}, as in {path}, got {variant!r}")
    both = [name for name in medians[0] if name in medians[1] and variant in (None, name)]
    if not both:
        raise SeqparError(f"{first} and {second} have no variant in common; measure the same variants")
    return Regression(
        medians={name: (medians[0][name], medians[1][name]) for name in both},
        notes=tuple(_notes(*results)) if variant else (*_notes(*results), *_missing(*medians)),
        lost=tuple(name for name in medians[0] if variant in (None, name) and _is_lost(name, *results)),
    )


def _is_lost(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    before, after = (
        next((entry.get("identical", True) for entry in result["variants"] if entry["name"] == name), None)
        for result in (first, second)
    )
    return after is None or bool(before and not after)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SeqparError(f"{path} cannot be read: {error.strerror}; pass a result of seqpar-bench") from None
    except (ValueError, RecursionError) as error:
        raise SeqparError(f"{path} must be a JSON result of seqpar-bench: {error}; pass a file that it wrote") from None
    if not isinstance(result, dict):
        raise SeqparError(f"{path} must be a result of seqpar-bench, got other JSON; pass a file that it wrote")
    return result


def _medians(result: Mapping[str, Any], path: Path) -> dict[str, float]:
    try:
        medians = {
            str(variant["name"]): statistics.median(map(float, variant["seconds"])) for variant in result["variants"]
        }
        if not all(math.isfinite(median) and median > 0 for median in medians.values()):
            raise ValueError("times must be above 0")
        return medians
    except (KeyError, TypeError, ValueError):
        raise SeqparError(
            f"{path} must be a result of seqpar-bench, got other JSON; pass a file that it wrote"
        ) from None


def _notes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return other differences of the results, which may explain a regression."""
    notes = []
    machines = [result.get("machine") or {} for result in (first, second)]
    for key in ("processor", "cores", "memory_gb"):
        if machines[0].get(key) != machines[1].get(key):
            notes.append(f"the machines differ: {key} {machines[0].get(key)}, then {machines[1].get(key)}")
    packages = [machine.get("packages") or {} for machine in machines]
    for name in sorted(packages[0].keys() | packages[1].keys()):
        if packages[0].get(name) != packages[1].get(name):
            notes.append(f"{name} {packages[0].get(name)}, then {packages[1].get(name)}")
    if first.get("bundle") != second.get("bundle"):
        notes.append("the bundles differ")
    if first.get("settings") != second.get("settings"):
        notes.append(f"the settings differ: {first.get('settings')}, then {second.get('settings')}")
    return notes


def _missing(first: Mapping[str, float], second: Mapping[str, float]) -> list[str]:
    return [
        f"only the {which} has {name}"
        for which, names in (("first", first.keys() - second.keys()), ("second", second.keys() - first.keys()))
        for name in sorted(names)
    ]
