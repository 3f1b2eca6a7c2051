"""Parts of charts. A chart is `WIDTH` units wide, about a phone's screen, and scales with its column."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from seqpar_deploy.reports.markup import Html, join, tag

WIDTH = 420.0
_DIGIT = 6.6  # width of a digit, about


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps a value to a position along an axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, *, log: bool) -> Scale:
        """From a round number below the smallest value (0, if not `log`) to one above the largest."""
        values = list(values)
        if log:
            return cls(low=_round_down(min(values)), high=_round_up(max(values)), start=start, end=end, log=True)
        step = _step(max(values))
        return cls(low=0, high=step * math.ceil(max(values) / step - 1e-9), start=start, end=end)

    def __call__(self, value: float) -> float:
        place = math.log(value / self.low) / math.log(self.high / self.low) if self.log else value / self.high
        return self.start + place * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers: 1, 2 and 5 of each power of ten, or fewer if the axis spans many."""
        if not self.log:
            step = _step(self.high)
            return [step * i for i in range(round(self.high / step) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        digits: tuple[int, ...] = (1, 2, 5) if len(powers) <= 3 else (1,)
        if len(powers) > 7:
            powers = range(powers.start, powers.stop, 2)
        found = [digit * 10.0**power for power in powers for digit in digits]
        return [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]


def wide(values: Sequence[float], ratio: float = 30) -> bool:
    """Whether these positive numbers need a logarithmic axis to be distinguished."""
    return max(values) > ratio * min(values)


def _step(high: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(high / 4))
    return power * next(digit for digit in (1, 2, 5, 10) if digit * power >= high / 5)


def _round_down(value: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return power * next(digit for digit in (5, 2, 1) if digit * power <= value * (1 + 1e-9))


def _round_up(value: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return power * next(digit for digit in (1, 2, 5, 10) if digit * power > value)


def drawing(height: float, label: str, *parts: object) -> Html:
    """The chart; `label` describes it in words."""
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", aria_label=label)


def text(x: float, y: float, content: object, *, anchor: str = "start", kind: str | None = None) -> Html:
    return tag("text", content, x=x, y=y, text_anchor=anchor, class_=kind)


def fitted(content: str, width: float) -> str:
    """As much of a text as fits, by the average width of a letter."""
    most = int(width / 7.2)
    return content if len(content) <= most else content[: most - 1].rstrip(" ,") + "\N{HORIZONTAL ELLIPSIS}"


def line(x1: float, y1: float, x2: float, y2: float, **look: object) -> Html:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, **look)


def box(x: float, y: float, width: float, height: float, *, tip: str | None = None, **look: object) -> Html:
    inside = tag("title", tip) if tip else None
    return tag("rect", inside, x=x, y=y, width=max(0.0, width), height=height, **look)


def mark(x: float, y: float, look: Mapping[str, object], *, square: bool = False, tip: str) -> Html:
    """A point of a chart, a circle or a square. `look` holds its fill."""
    drawn = {"stroke": "var(--paper)", "stroke_width": 1.2, **look}
    tooltip = tag("title", tip)
    if square:
        return tag("rect", tooltip, x=x - 3.8, y=y - 3.8, width=7.6, height=7.6, **drawn)
    return tag("circle", tooltip, cx=x, cy=y, r=4.2, **drawn)


def x_axis(scale: Scale, top: float, bottom: float, title: str, format_tick: Callable[[float], str]) -> Html:
    """Grid lines from `top` to `bottom`, their values, and under them the title."""
    ticks = scale.ticks()
    widest = max(len(format_tick(value)) for value in ticks) * _DIGIT + 8
    thinned = ticks[:: math.ceil(len(ticks) * widest / (abs(scale.end - scale.start) + widest))]
    lines = (line(scale(value), top, scale(value), bottom, class_="grid") for value in thinned)
    values = (text(scale(value), bottom + 14, format_tick(value), anchor="middle", kind="faint") for value in thinned)
    return join(*lines, *values, text((scale.start + scale.end) / 2, bottom + 30, title, anchor="middle", kind="faint"))


def y_axis(scale: Scale, left: float, right: float, title: str, format_tick: Callable[[float], str]) -> Html:
    """Grid lines from `left` to `right`, their values, and above them the title."""
    lines = (line(left, scale(value), right, scale(value), class_="grid") for value in scale.ticks())
    values = (
        text(left - 6, scale(value) + 4, format_tick(value), anchor="end", kind="faint") for value in scale.ticks()
    )
    return join(*lines, *values, text(2, min(scale.start, scale.end) - 12, title, kind="faint"))


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels near `places`, at least `gap` apart and, if there is room, between `low` and `high`."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    found = [0.0] * len(places)
    at = low - gap
    for i in order:
        at = found[i] = max(places[i], at + gap)
    at = high + gap
    for i in reversed(order):
        at = found[i] = min(found[i], at - gap)
    return found
