"""How often words of a private dialect occur in the text that people read, per 1,000 words.

Reads the Markdown files, the docstrings of the package and the help of every command. Code blocks and inline code do
not count. Prints a table; nothing is written.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKDOWN = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "models/**/*.md", "samples/**/*.md")
LIMITS = {"what": (0.0, 2.0), "where": (0.0, 2.0), "semicolons": (0.0, 2.0), "default": (2.0, float("inf"))}
_PATTERNS = {"what": r"\bwhat\b", "where": r"\bwhere\b", "semicolons": ";", "default": r"\bdefaults?\b"}
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Words of a text, and how often each of `LIMITS` occurs in it."""

    words: int
    found: dict[str, int]

    def per_thousand(self, name: str) -> float:
        """Occurrences per 1,000 words."""
        return 1000 * self.found[name] / self.words if self.words else 0.0

    def keeps(self, name: str) -> bool:
        """Whether the limits of the project are kept."""
        least, most = LIMITS[name]
        return least <= self.per_thousand(name) <= most


def count(texts: list[str]) -> Counts:
    """Count in plain texts."""
    text = "\n".join(texts)
    found = {name: len(re.findall(pattern, text, re.IGNORECASE)) for name, pattern in _PATTERNS.items()}
    return Counts(words=len(_WORD.findall(text)), found=found)


def measure() -> dict[str, Counts]:
    """Count in each kind of text, and in all of them."""
    texts = {"docs": list(docs()), "docstrings": list(docstrings()), "help": list(helps())}
    return {
        **{kind: count(each) for kind, each in texts.items()},
        "all": count([text for each in texts.values() for text in each]),
    }


def docs() -> Iterator[str]:
    """Prose of the Markdown files."""
    for pattern in MARKDOWN:
        for path in sorted(ROOT.glob(pattern)):
            yield prose(path.read_text(encoding="utf-8"))


def docstrings() -> Iterator[str]:
    """Prose of every docstring of the package, private ones included."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted((ROOT / "seqpar_deploy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield prose(text)


def helps() -> Iterator[str]:
    """Help of every command, without its examples: descriptions, arguments and options."""
    from typer.main import get_command

    from seqpar_deploy.cli.main import app

    yield from _help(get_command(app), None, "seqpar")


def _help(command: Any, parent: Any, name: str) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent)
    yield str(command.help or "").partition("\b\nExamples:")[0]
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            yield re.sub(r";(?=[^\[\]]*\]$)", ",", record[1])  # typer's own `[default: 0.5; x>=0]`
    for child in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _help(command.get_command(context, child), context, child)


def prose(text: str) -> str:
    """Markdown without code, indented examples, addresses and tags."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(``?)[^`]+\1", "code", text)
    return re.sub(r"\]\([^)]*\)|https?://\S+", "]", text)


def table(counts: dict[str, Counts]) -> str:
    """The counts as text."""
    lines = [f"{'per 1,000 words':16}{'words':>8}" + "".join(f"{name:>14}" for name in LIMITS)]
    for kind, each in counts.items():
        cells = (f"{each.per_thousand(name):.2f}{' ' if each.keeps(name) else '*'}" for name in LIMITS)
        lines.append(f"{kind:16}{each.words:8}" + "".join(f"{cell:>14}" for cell in cells))
    limits = (f"{'at least' if least else 'at most'} {least or most:g} " for least, most in LIMITS.values())
    lines.append(f"{'limit':24}" + "".join(f"{limit:>14}" for limit in limits))
    if any(not each.keeps(name) for each in counts.values() for name in LIMITS):
        lines.append("* outside the limit")
    return "\n".join(lines)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args().json
    counts = measure()
    values = {
        kind: {"words": each.words, **{name: round(each.per_thousand(name), 2) for name in LIMITS}}
        for kind, each in counts.items()
    }
    print(json.dumps(values, indent=2) if as_json else table(counts))


if __name__ == "__main__":
    main()
