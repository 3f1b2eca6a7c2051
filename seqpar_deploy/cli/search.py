"""`seqpar search`: people in the results of archive jobs and live runs, by attributes, time and camera."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from seqpar_deploy.cli.console import json_text, print_line, stage
from seqpar_deploy.cli.layout import printable
from seqpar_deploy.files import check_writable, finite, write_whole
from seqpar_deploy.serving.search.expression import parse_expression
from seqpar_deploy.serving.search.query import Filters, Found, search
from seqpar_deploy.serving.search.results import find_results, read_names
from seqpar_deploy.serving.search.times import parse_since, parse_until

_log = logging.getLogger(__name__)

_LINES, _CARDS = 20, 100  # rows to show if there is no --limit
_MOST_CARDS = 2000  # each picture takes about 10 kB
_SHOWN = ["id", "camera", "captured_at", "timestamp", "states", "probabilities"]  # columns of a line

_Results = Annotated[
    list[Path],
    typer.Argument(
        help="Folders of jobs of seqpar archive or of seqpar video --keep-people, or their Parquet files. Attributes "
        "of several are compared by name.",
        metavar="RESULTS",
    ),
]
_Expression = Annotated[
    str,
    typer.Argument(
        help="Attributes with and, or, not, parentheses and comparisons, for example 'hat and female>0.8'. '' matches "
        "everybody.",
        metavar="EXPRESSION",
    ),
]
_Since = Annotated[
    str | None,
    typer.Option(
        help="Earliest time of the picture: 30m, 12h, 7d or 2w before now, a date, or a date and time in UTC.",
        metavar="TIME",
        show_default="any",
    ),
]
_Until = Annotated[
    str | None,
    typer.Option(
        help="Latest time of the picture, in the same forms. A date includes its day.",
        metavar="TIME",
        show_default="any",
    ),
]
_Camera = Annotated[
    list[str] | None,
    typer.Option(help="Name of the camera. Repeat it for several.", metavar="NAME", show_default="all"),
]
_Limit = Annotated[
    int | None,
    typer.Option(
        help=f"Rows to show. A page shows at most {_MOST_CARDS}.",
        show_default=f"{_LINES}, on a page {_CARDS}, all with --json",
        min=1,
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON Lines, one object per row, instead of text.")]
_Page = Annotated[
    Path | None,
    typer.Option(
        help="Also write the rows to this HTML page, with pictures whose source is still there.", metavar="FILE"
    ),
]


def search_results(
    results: _Results,
    expression: _Expression,
    since: _Since = None,
    until: _Until = None,
    camera: _Camera = None,
    limit: _Limit = None,
    as_json: _AsJson = False,
    page: _Page = None,
) -> None:
    """Search the results of archive jobs for people.

    It also searches what seqpar video --keep-people keeps.

    Print a line per matching row: time, camera, ID, and the attributes whose state is yes. The number of matches is
    logged to standard error.

    hat means that the state of the attribute is yes, and not hat that it is no. hat=unknown finds the unknown ones, and
    hat>0.8 compares the probability. Case does not matter, and the first letters of a name suffice. Quote names that
    have spaces. docs/how-to/search-an-archive.md has more.

    Examples:
      seqpar search jobs/november 'backpack and not hat and female>0.8'
      seqpar search jobs/* 'backpack' --since 7d --camera gate-3 --page people.html
      seqpar search people 'backpack and not hat' --since 1h
    """
    check_writable(page)
    now = datetime.datetime.now(datetime.timezone.utc)
    filters = Filters(
        since=parse_since(since, now) if since else None,
        until=parse_until(until, now) if until else None,
        cameras=tuple(camera or ()),
    )
    files = find_results(results)
    parsed = parse_expression(expression, read_names(files[0]))
    with stage("searching") as on_progress:
        found = search(files, parsed, filters, on_progress=on_progress)
    _warn(found, filters)
    shown = limit or (found.count if as_json else _LINES)
    if page:
        _write_page(page, found, expression, limit or _CARDS)
    if as_json:
        printed = all(print_line(_json_line(row)) for row in islice(found.rows(), shown))
    else:
        lines = _table(list(islice(found.rows(_SHOWN), shown)))
        printed = all(map(print_line, lines))
    if printed:
        more = f", {shown:,} shown" if shown < found.count else ""
        _log.info("%s of %s rows match%s", f"{found.count:,}", f"{found.searched:,}", more)


def _warn(found: Found, filters: Filters) -> None:
    """Log why rows may be missing."""
    if found.undated:
        _log.warning("%s rows left out, because their time is unknown", f"{found.undated:,}")
    if missing := [name for name in filters.cameras if name not in found.cameras]:
        known = ", ".join(sorted(found.cameras)[:12]) or "none"
        _log.warning("no row is of camera %s; cameras: %s", ", ".join(missing), known)


def _json_line(row: Mapping[str, Any]) -> str:
    values = dict(row)
    for name in ("probabilities", "box"):
        values[name] = _rounded(values[name])
    if values["captured_at"] is not None:
        values["captured_at"] = values["captured_at"].isoformat().replace("+00:00", "Z")
    return json_text(finite(values))


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: None if value is None else round(value, 6) for name, value in values.items()}
    return values and [round(value, 2) for value in values]


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield aligned lines. A column without any value is left out."""
    cells = [[_moment(row), row["camera"] or "", row["id"]] for row in rows]
    cells = [[printable(cell) for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line, row in zip(cells, rows, strict=True):
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(line, widths, strict=True) if width)
        yield start + _attributes(row)


def _moment(row: Mapping[str, Any]) -> str:
    """Return when a person was seen: date and time, and of a video without one the seconds into it."""
    if row["captured_at"] is not None:
        return str(row["captured_at"].strftime("%Y-%m-%d %H:%M:%S"))
    return "" if row["timestamp"] is None else f"{row['timestamp']:.1f} s"


def _attributes(row: Mapping[str, Any]) -> str:
    """Return the attributes that are yes, and then those that are unknown."""
    yes, unknown = (
        ", ".join(
            f"{name} {row['probabilities'][name]:.2f}" for name, state in row["states"].items() if state == wanted
        )
        for wanted in ("yes", "unknown")
    )
    return (yes or "(no attributes)") + (f"  unknown: {unknown}" if unknown else "")


def _write_page(path: Path, found: Found, expression: str, limit: int) -> None:
    from seqpar_deploy.reports.search_page import search_page
    from seqpar_deploy.serving.search.pictures import load_picture

    rows = list(islice(found.rows(), min(limit, _MOST_CARDS)))
    cards = []
    with stage("loading pictures") as on_progress:
        for row in rows:
            cards.append((row, load_picture(row)))
            on_progress(len(cards), len(rows))
    document = search_page(expression, cards, count=found.count, searched=found.searched)
    write_whole(path, document.encode("utf-8", "backslashreplace"))
    _log.info("wrote %s", path)
