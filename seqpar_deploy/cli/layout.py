"""Text layout of `seqpar doctor` and `seqpar info`: titled sections of aligned lines. Names that are safe to print."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

_NEVER_PRINTED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, marks such as right-to-left, bytes that are no text, breaks
_JOINERS = "\u200c\u200d"  # part of words and of emoji


def printable(text: str, keep: str = "") -> str:
    """Return a text with characters that would break a line or drive a terminal escaped, for example as `\\u001b`.

    Names of files may contain any byte but zero and `/`. Bytes that are not UTF-8 are escaped too, as `\\udce9`. The
    escapes are also valid in JSON strings.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter in keep or letter in _JOINERS or unicodedata.category(letter) not in _NEVER_PRINTED
        else _escape(letter)
        for letter in text
    )


def _escape(letter: str) -> str:
    if letter in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[letter]
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def format_sections(sections: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """Return each section's title and its (name, text) lines, with the names of all sections in one column."""
    listed = {title: list(lines) for title, lines in sections.items()}
    width = max((len(name) for lines in listed.values() for name, _ in lines), default=0)
    return "\n\n".join(
        "\n".join([title, *(f"  {name:{width}}  {text}" for name, text in lines)]) for title, lines in listed.items()
    )


def size(count: float) -> str:
    """Return a number of bytes with a readable unit, for example `1.2 GB`."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
