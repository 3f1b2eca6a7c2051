"""Tables in the text of a TOML file, changed so that comments stay where they are.

tomlkit alone moves comments: one above a table belongs to the table before it. So tables are added, renamed and removed
in the text, and tomlkit changes values.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from seqpar_deploy.errors import BackendUnavailableError, VideoError

Path = tuple[str, ...]  # of a table: the keys that lead to it

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"\s*\[([^\[\]].*?)\]\s*(#.*)?$")


def removed(text: str, path: Path) -> str:
    """Return the text without a table and those in it. Comments above the next table stay."""
    lines = text.splitlines(keepends=True)
    ours = [(start, end) for start, end, header in spans(text) if header[: len(path)] == path]
    if not ours:
        return changed(text, path[:-1], lambda table: table.pop(path[-1]))
    for start, end in reversed(ours):
        del lines[start : start + len(trimmed(lines[start:end]))]
        if start and start < len(lines) and not lines[start - 1].strip() and not lines[start].strip():
            del lines[start]  # two blank lines
    result = "".join(lines)
    table = parsed(result)
    for part in path[:-1]:
        table = table.get(part, {})
    return changed(result, path[:-1], lambda table: table.pop(path[-1])) if path[-1] in table else result


def renamed(text: str, path: Path, name: str) -> str:
    """Return the text with another name of a table."""
    lines = text.splitlines(keepends=True)
    ours = [(start, header) for start, _, header in spans(text) if header[: len(path)] == path]
    if not ours:
        return changed(text, path[:-1], lambda table: _rename(table, path[-1], name))
    for start, header in ours:
        match = _HEADER.match(lines[start])
        assert match is not None
        new = ".".join(map(key, (*path[:-1], name, *header[len(path) :])))
        lines[start] = f"{lines[start][: match.start(1)]}{new}{lines[start][match.end(1) :]}"
    return "".join(lines)


def _rename(table: Any, was: str, name: str) -> None:
    table[name] = table[was].unwrap()
    del table[was]


def changed(text: str, path: Path, change: Callable[[Any], object]) -> str:
    """Return the text after a change by tomlkit of a table that has no header of its own, for example an inline one."""
    document = table = parsed(text)
    for part in path:
        table = table[part]
    change(table)
    result = str(load_tomlkit().dumps(document))
    return result if table or len(path) < 3 else removed(result, path)


def added(text: str, block: str, after: Sequence[tuple[int, int]]) -> str:
    """Return the text with a block of lines below the last of some tables, given as of `spans`, at the end if none."""
    lines = text.splitlines(keepends=True)
    place = len(lines)
    if after:
        start, end = after[-1]
        place = start + len(trimmed(lines[start:end]))
    if place and not lines[place - 1].endswith("\n"):
        lines[place - 1] += "\n"
    return "".join([*lines[:place], block, *lines[place:]])


def written(path: Path, values: Mapping[str, Any]) -> str:
    """Return a table and those in it as text, each with a header and a blank line above."""
    lines = [f"{key(name)} = {_literal(value)}\n" for name, value in values.items() if not isinstance(value, Mapping)]
    tables = [written((*path, name), value) for name, value in values.items() if isinstance(value, Mapping)]
    own = ["\n", f"[{'.'.join(map(key, path))}]\n", *lines] if lines or not tables else []
    return "".join([*own, *tables])


def _literal(value: Any) -> str:
    return str(load_tomlkit().item(value).as_string())


def spans(text: str) -> Iterator[tuple[int, int, Path]]:
    """Yield first line, line after the last one, and path of each table with a header."""
    lines = text.splitlines(keepends=True)
    headers = [(number, path) for number, line in enumerate(lines) if (path := _path_of(line))]
    ends = [number for number, _ in headers[1:]] + [len(lines)]
    for (start, path), end in itertools.zip_longest(headers, ends[: len(headers)]):
        yield start, end, path


def _path_of(line: str) -> Path | None:
    """Return the path of a table's header, None of another line."""
    if not _HEADER.match(line):
        return None
    try:
        values = load_tomlkit().parse(line).unwrap()
    except ValueError:  # a line within a list or a text
        return None
    path: list[str] = []
    while isinstance(values, MutableMapping) and len(values) == 1:
        (name, values), *_ = values.items()
        path.append(name)
    return tuple(path)


def trimmed(lines: list[str]) -> list[str]:
    """Return lines without the comments and blank lines at their end, which belong to the next table."""
    number = len(lines)
    while number and (not lines[number - 1].strip() or lines[number - 1].lstrip().startswith("#")):
        number -= 1
    return lines[:number]


def key(name: str) -> str:
    """Return a name as a key, with quotes where it needs them."""
    return name if _BARE.fullmatch(name) else str(load_tomlkit().item(name).as_string())


def parsed(text: str, what: str = "the config file") -> Any:
    """Return tomlkit's document. Raises VideoError, which names what it was, if it is not TOML."""
    try:
        return load_tomlkit().parse(text)
    except ValueError as error:
        raise VideoError(f"{what} must be TOML: {error}; correct it") from None


def load_tomlkit() -> Any:
    """Import tomlkit. Raises BackendUnavailableError."""
    try:
        import tomlkit
    except ImportError:
        raise BackendUnavailableError("tomlkit is not installed; pip install 'seqpar-deploy[video]'") from None
    return tomlkit
