"""A page and its parts: one HTML document that needs no network, in light or dark mode like the reader's system."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence

from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.style import STYLE

_NOTHING = "img-src data:"


def page(title: str, body: str, *, style: str = "", script: str = "", sources: str = _NOTHING) -> str:
    """The document: `title` is text, `body` markup.

    `style` is CSS in addition to that of all pages. `script` is the only script that the page runs. `sources` are
    directives of the Content-Security-Policy for content that the page may fetch. Default: embedded images only.
    """
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # The page fetches nothing, even if a hostile name got past the escaping.
        tag("meta", http_equiv="Content-Security-Policy", content=policy(script=script, sources=sources)),
        tag("title", title),
        tag("style", Html(STYLE + style)),
    )
    inside = join(tag("main", Html(body)), tag("script", Html(script)) if script else None)
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', inside), lang='en')}\n"


def policy(*, script: str = "", sources: str = _NOTHING) -> str:
    """The Content-Security-Policy of a page that runs this script, by its hash, and may fetch from `sources`."""
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        allowed.append(f"script-src 'sha256-{digest}'")
    return "; ".join([*allowed, sources])


def section(heading: str, *parts: object) -> Html:
    """A heading and the parts below it."""
    return tag("section", tag("h2", heading), *parts)


def table(
    heads: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    label: str,
    words: Sequence[int] = (0,),
    best: int | None = None,
) -> Html:
    """A table in its own box, which scrolls on a narrow screen.

    Columns numbered in `words` hold text and are aligned left; the others hold numbers and are aligned right. Empty
    columns (all None) are left out. The row numbered `best`, from 0, is in the accent colour.
    """
    body = [list(row) for row in rows]
    shown = [column for column in range(len(heads)) if any(row[column] is not None for row in body)]

    long = {i for i in words if any(len(str(row[i])) > 24 for row in body if not isinstance(row[i], Html))}

    def line(cell: str, row: Sequence[object], place: int = -1) -> Html:
        kinds = {i: "word long" if i in long else "word" for i in words}
        cells = (tag(cell, row[i], class_=kinds.get(i)) for i in shown)
        return tag("tr", *cells, class_="best" if best is not None and place == best else None)

    inside = tag(
        "table",
        tag("thead", line("th", heads)),
        tag("tbody", *(line("td", row, place) for place, row in enumerate(body))),
    )
    return tag("div", inside, class_="scroll", role="region", aria_label=label, tabindex="0")


def figure(picture: Html, title: str, *notes: object) -> Html:
    """A chart or a picture with its title above and notes below."""
    return tag("figure", tag("figcaption", title), picture, *(tag("p", note, class_="note") for note in notes))


def badge(text: str, good: bool | None) -> Html:
    """A word and a mark, so that pass and fail differ in more than colour; None is neither."""
    mark, kind = {True: ("\u2713", "good"), False: ("\u2717", "bad"), None: ("\u2022", "plain")}[good]
    return tag("span", f"{mark} {text}", class_=f"badge {kind}")


def tiles(facts: Iterable[tuple[str, object, object]]) -> Html:
    """The key figures: name, value, remark."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", value), tag("dd", remark, class_="note") if remark else None)
            for name, value, remark in facts
        ),
        class_="tiles",
    )


def facts(pairs: Iterable[tuple[object, object]]) -> Html:
    """Names and values, one pair per line, without those that are None."""
    lines = (tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value is not None)
    return tag("dl", *lines, class_="facts")
