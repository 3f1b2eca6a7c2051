"""Text layout of `seqpar doctor` and `seqpar info`: titled sections of aligned lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


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
