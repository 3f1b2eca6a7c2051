"""HTML and SVG from values. Every value is escaped on entry, so that no name can become markup."""

from __future__ import annotations

import html

_VOID = frozenset({"img", "input", "meta"})


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Attributes have Python names (`class_`, `text_anchor`); those that are None are left out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(*children)}</{name}>")


def join(*parts: object) -> Html:
    """Markup as it is, None as nothing, anything else as escaped text."""
    return Html(
        "".join(part if isinstance(part, Html) else html.escape(_text(part)) for part in parts if part is not None)
    )


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).encode("utf-8", "replace").decode("utf-8")  # file names may contain surrogates
