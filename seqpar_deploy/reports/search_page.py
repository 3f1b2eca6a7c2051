"""The matches of a search as a page: a card per row, with its picture and attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.reports.markup import Html, tag
from seqpar_deploy.reports.numbers import counted, percent
from seqpar_deploy.reports.page import facts, page
from seqpar_deploy.reports.thumbnail import thumbnail

Card = tuple[Mapping[str, Any], npt.NDArray[np.uint8] | None]


def search_page(expression: str, cards: Sequence[Card], *, count: int, searched: int) -> str:
    """The first matches of a search as HTML.

    Args:
        expression: The expression as the user wrote it.
        cards: Rows of results to show, each with its picture, uint8 (h, w, 3), or None.
        count: Rows that match.
        searched: Rows in all files.
    """
    title = expression.strip() or "everybody"
    lost = sum(picture is None for _, picture in cards)
    shown = f" The first {len(cards):,} are shown." if len(cards) < count else ""
    body = (
        tag("p", "Search", class_="kind"),
        tag("h1", title),
        tag("p", f"{counted(count, 'row')} of {searched:,} match.{shown}"),
        tag("p", f"{counted(lost, 'picture')} could not be loaded from the source.", class_="note") if lost else None,
        *(_card(row, picture) for row, picture in cards),
    )
    return page(f"Search: {title}", tag("div", *body))


def _card(row: Mapping[str, Any], picture: npt.NDArray[np.uint8] | None) -> Html:
    when = row["captured_at"]
    seconds = row["timestamp"]
    words = facts(
        [
            ("time", None if when is None else when.strftime("%Y-%m-%d %H:%M:%S UTC")),
            ("camera", row["camera"]),
            ("in the video", None if seconds is None else f"{seconds:.1f} s"),
            ("yes", _chips(row, "yes") or tag("span", "no attributes", class_="note")),
            ("unknown", _chips(row, "unknown")),
        ]
    )
    return tag("div", thumbnail(picture, row["id"]), tag("div", tag("h3", row["id"]), words), class_="case")


def _chips(row: Mapping[str, Any], wanted: str) -> Html | None:
    chips = (
        tag("span", name, " ", tag("small", percent(row["probabilities"][name])), class_="chip")
        for name, state in row["states"].items()
        if state == wanted
    )
    found = list(chips)
    return tag("span", *found) if found else None
