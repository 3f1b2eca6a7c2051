"""Numbers for readers, with a dash for values that were not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

NONE = "\N{EN DASH}"


def known(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """Three significant digits with thousands separators; also `nan` and `inf`."""
    if value is None or not isinstance(value, (int, float)):
        return NONE
    if not math.isfinite(value):
        return str(float(value))
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def positive(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number above 0."""
    return known(value) and value > 0


def column(values: Sequence[Any], scale: float = 1.0) -> list[str | None]:
    """Numbers with the same number of decimals, the smallest with two significant digits; None stays None."""
    sizes = [abs(scale * value) for value in values if known(value) and value]
    decimals = min(4, max(0, 1 - math.floor(math.log10(min(sizes))))) if sizes else 0
    return [f"{scale * value:,.{decimals}f}" if known(value) else None for value in values]


def tick(value: float) -> str:
    """A round number: `0.5`, `8,000`."""
    return f"{value:,.6g}"


def milliseconds(seconds: Any) -> str:
    """`1,028 ms`"""
    return f"{number(1e3 * seconds)} ms" if known(seconds) else NONE


def duration(seconds: Any) -> str:
    """`12.3 s`, or milliseconds below a second."""
    return f"{number(seconds)} s" if known(seconds) and seconds >= 1 else milliseconds(seconds)


def megabytes(size: Any) -> str:
    """`1,730 MB`"""
    return f"{size / 1e6:,.0f} MB" if known(size) else NONE


def percent(share: Any) -> str:
    """`61 %`, `0.4 %`"""
    return f"{100 * share:.{0 if share >= 0.0995 or share == 0 else 1}f}\N{NO-BREAK SPACE}%" if known(share) else NONE


def times(ratio: Any) -> str:
    """`6.5×`"""
    return f"{ratio:,.0f}\u00d7" if known(ratio) and ratio >= 99.5 else f"{ratio:.1f}\u00d7" if known(ratio) else NONE


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 crop`, `1,200 crops`. Default plural: the singular and an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def prefixed(value: float) -> str:
    """`100 G`: a power of a thousand by its letter."""
    if not known(value) or value <= 0:
        return NONE
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {letter}"
    return f"{value:.3g}"
