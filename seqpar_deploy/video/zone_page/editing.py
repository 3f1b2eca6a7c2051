"""Changes the zones, lines and masks of a camera in a config file, and keeps comments, order and other keys.

tomlkit alone moves comments: one above a table belongs to the table before it. So tables are added, renamed and removed
in the text, and tomlkit changes values. The result is parsed and compared with what it has to be.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Literal

from seqpar_deploy.errors import BackendUnavailableError, VideoError
from seqpar_deploy.video.zones.geometry import Point

Kind = Literal["zones", "lines", "masks"]
KINDS: tuple[Kind, ...] = ("zones", "lines", "masks")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"\s*\[([^\[\]].*?)\]\s*(#.*)?$")

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """A shape as the page has it.

    Attributes:
        kind: Table that it belongs to: "zones", "lines" or "masks".
        name: Its name.
        was: Its name in the file. None if it is new.
        points: Its points in shares of the frame. None if they have not changed.
    """

    kind: Kind
    name: str
    was: str | None = None
    points: tuple[Point, ...] | None = None


def with_scene(content: str, camera: str, drawn: Sequence[Drawn]) -> str:
    """Return the content of a config file with other zones, lines and masks of a camera.

    Args:
        content: The content.
        camera: Name of the camera.
        drawn: All its shapes. Those that are missing are removed.

    Raises:
        VideoError: There is no such camera, or the file is written in a way that cannot be changed.
        BackendUnavailableError: tomlkit is not installed.
    """
    before = _parsed(content)
    expected = _expected(before.unwrap(), camera, drawn)
    try:
        text = _changed_scene(content, before, camera, drawn)
    except load_tomlkit().exceptions.TOMLKitError:  # it cannot change all that it can read
        text = ""
    if _parsed(text).unwrap() != expected:
        raise VideoError(
            f"zones, lines and masks of {camera} must be tables of their own to be renamed or removed, for example "
            f"[cameras.{camera}.lines.door], got another form; change them in the file"
        )
    return text


def _changed_scene(text: str, before: Any, camera: str, drawn: Sequence[Drawn]) -> str:
    for kind in KINDS:
        at = ("cameras", camera, kind)
        kept = {one.was: one for one in drawn if one.kind == kind and one.was is not None}
        for name in list(before["cameras"][camera].get(kind, {})):
            if name not in kept:
                text = _removed(text, (*at, name))
        renamed = [(one.was, one.name) for one in kept.values() if one.was is not None and one.was != one.name]
        for number, (was, _) in enumerate(renamed):  # names may be exchanged
            text = _renamed(text, (*at, was), f"renamed-{number}")
        for number, (_, name) in enumerate(renamed):
            text = _renamed(text, (*at, f"renamed-{number}"), name)
    text = _moved(text, camera, drawn)
    for one in drawn:
        if one.was is None:
            text = _added(text, camera, one)
    return text


def _expected(values: dict[str, Any], camera: str, drawn: Sequence[Drawn]) -> dict[str, Any]:
    """Return the values that the file has to have."""
    if camera not in values.get("cameras", {}):
        known = ", ".join(values.get("cameras", {})) or "none"
        raise VideoError(f"the camera must be in the file, got {camera}; the cameras are {known}")
    scene = values["cameras"][camera]
    for kind in KINDS:
        old, new = scene.pop(kind, None), {}
        for one in drawn:
            if one.kind == kind:
                shape = dict(old[one.was]) if old and one.was is not None else {}
                new[one.name] = shape if one.points is None else shape | {"points": [list(at) for at in one.points]}
        if new:
            scene[kind] = new
    return values


def _removed(text: str, path: Path) -> str:
    """Remove a table, but not the comments above the next one."""
    lines, spans = text.splitlines(keepends=True), list(_spans(text))
    ours = [(start, end) for start, end, header in spans if header[: len(path)] == path]
    if not ours:
        return _changed(text, path[:-1], lambda table: table.pop(path[-1]))
    for start, end in reversed(ours):
        del lines[start : start + len(_trimmed(lines[start:end]))]
        if start and start < len(lines) and not lines[start - 1].strip() and not lines[start].strip():
            del lines[start]  # two blank lines
    return "".join(lines)


def _renamed(text: str, path: Path, name: str) -> str:
    lines = text.splitlines(keepends=True)
    ours = [(start, header) for start, _, header in _spans(text) if header[: len(path)] == path]
    if not ours:
        return _changed(text, path[:-1], lambda table: _rename(table, path[-1], name))
    for start, header in ours:
        match = _HEADER.match(lines[start])
        assert match is not None
        new = ".".join(map(_key, (*path[:-1], name, *header[len(path) :])))
        lines[start] = f"{lines[start][: match.start(1)]}{new}{lines[start][match.end(1) :]}"
    return "".join(lines)


def _moved(text: str, camera: str, drawn: Iterable[Drawn]) -> str:
    """Change points. tomlkit keeps the comment beside a value."""
    document = _parsed(text)
    for one in drawn:
        if one.was is not None and one.points is not None:
            document["cameras"][camera][one.kind][one.name]["points"] = [list(point) for point in one.points]
    return str(load_tomlkit().dumps(document))


def _added(text: str, camera: str, one: Drawn) -> str:
    """Add a table below the last one of its kind, or else of its camera."""
    lines, spans = text.splitlines(keepends=True), list(_spans(text))
    points = f"points = [{', '.join(f'[{x!r}, {y!r}]' for x, y in one.points or ())}]\n"
    path = ("cameras", camera, one.kind)
    ours = [(start, end) for start, end, header in spans if header[:3] == path]
    if not ours and one.kind in _parsed(text)["cameras"][camera]:
        return _changed(text, path, lambda shapes: shapes.update({one.name: _inline(points)}))
    ours = ours or [(start, end) for start, end, header in spans if header[:2] == path[:2]]
    table = f"[{'.'.join(map(_key, (*path, one.name)))}]\n{points}"
    if not ours:
        return _changed(text, path[:2], lambda camera: camera.update({one.kind: {one.name: _inline(points)}}))
    start, end = ours[-1]
    place = start + len(_trimmed(lines[start:end]))
    if not lines[place - 1].endswith("\n"):
        lines[place - 1] += "\n"
    return "".join([*lines[:place], "\n", table, *lines[place:]])


def _rename(table: Any, was: str, name: str) -> None:
    table[name] = table[was].unwrap()
    del table[was]


def _inline(points: str) -> Any:
    table = load_tomlkit().inline_table()
    table.update(_parsed(points))
    return table


def _changed(text: str, path: Path, change: Any) -> str:
    """Change a table that has no header of its own, for example an inline one."""
    document = table = _parsed(text)
    for key in path:
        table = table[key]
    change(table)
    changed = str(load_tomlkit().dumps(document))
    return changed if table or len(path) < 3 else _removed(changed, path)


def _spans(text: str) -> Iterator[tuple[int, int, Path]]:
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
        (key, values), *_ = values.items()
        path.append(key)
    return tuple(path)


def _trimmed(lines: list[str]) -> list[str]:
    """Return lines without the comments and blank lines at their end, which belong to the next table."""
    number = len(lines)
    while number and (not lines[number - 1].strip() or lines[number - 1].lstrip().startswith("#")):
        number -= 1
    return lines[:number]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else str(load_tomlkit().item(name).as_string())


def _parsed(text: str) -> Any:
    try:
        return load_tomlkit().parse(text)
    except ValueError as error:
        raise VideoError(f"the config file must be TOML: {error}; correct it") from None


def load_tomlkit() -> Any:
    """Import tomlkit. Raises BackendUnavailableError."""
    try:
        import tomlkit
    except ImportError:
        raise BackendUnavailableError("tomlkit is not installed; pip install 'seqpar-deploy[video]'") from None
    return tomlkit
