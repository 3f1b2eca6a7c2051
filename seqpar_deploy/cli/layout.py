"""Text that `seqpar doctor` and `seqpar info` share: titled sections of aligned lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import typer


def print_sections(sections: Mapping[str, Iterable[tuple[str, str]]]) -> None:
    """Print each section's (name, text) lines with the names in one column; titles are bold on a terminal."""
    listed = {title: list(lines) for title, lines in sections.items()}
    width = max((len(name) for lines in listed.values() for name, _ in lines), default=0)
    for number, (title, lines) in enumerate(listed.items()):
        typer.secho(f"{'' if number == 0 else chr(10)}{title}", bold=True)
        for name, text in lines:
            print(f"  {name:{width}}  {text}")


def size(count: float) -> str:
    """Bytes for a person: `1.2 GB`."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
