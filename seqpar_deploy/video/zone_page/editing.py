"""Changes the zones, lines and masks of a camera in a config file, and keeps comments, order and other keys.

The result is parsed and compared with what it has to be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.cameras.tables import added, changed, key, load_tomlkit, parsed, removed, renamed, spans
from seqpar_deploy.video.zones.geometry import Point

Kind = Literal["zones", "lines", "masks"]
KINDS: tuple[Kind, ...] = ("zones", "lines", "masks")


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
    before = parsed(content)
    expected = _expected(before.unwrap(), camera, drawn)
    try:
        text = _with_changes(content, before, camera, drawn)
    except load_tomlkit().exceptions.TOMLKitError:  # it cannot change all that it can read
        text = ""
    if parsed(text).unwrap() != expected:
        raise VideoError(
            f"zones, lines and masks of {camera} must be tables of their own to be renamed or removed, for example "
            f"[cameras.{camera}.lines.door], got another form; change them in the file"
        )
    return text


def _with_changes(text: str, before: Any, camera: str, drawn: Sequence[Drawn]) -> str:
    for kind in KINDS:
        at = ("cameras", camera, kind)
        kept = {one.was: one for one in drawn if one.kind == kind and one.was is not None}
        for name in list(before["cameras"][camera].get(kind, {})):
            if name not in kept:
                text = removed(text, (*at, name))
        others = [(one.was, one.name) for one in kept.values() if one.was is not None and one.was != one.name]
        for number, (was, _) in enumerate(others):  # names may be exchanged
            text = renamed(text, (*at, was), f"renamed-{number}")
        for number, (_, name) in enumerate(others):
            text = renamed(text, (*at, f"renamed-{number}"), name)
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


def _moved(text: str, camera: str, drawn: Iterable[Drawn]) -> str:
    """Change points. tomlkit keeps the comment beside a value."""
    document = parsed(text)
    for one in drawn:
        if one.was is not None and one.points is not None:
            document["cameras"][camera][one.kind][one.name]["points"] = [list(point) for point in one.points]
    return str(load_tomlkit().dumps(document))


def _added(text: str, camera: str, one: Drawn) -> str:
    """Add a table below the last one of its kind, or else of its camera."""
    tables = list(spans(text))
    points = f"points = [{', '.join(f'[{x!r}, {y!r}]' for x, y in one.points or ())}]\n"
    path = ("cameras", camera, one.kind)
    ours = [(start, end) for start, end, header in tables if header[:3] == path]
    if not ours and one.kind in parsed(text)["cameras"][camera]:
        return changed(text, path, lambda shapes: shapes.update({one.name: _inline(points)}))
    ours = ours or [(start, end) for start, end, header in tables if header[:2] == path[:2]]
    table = f"[{'.'.join(map(key, (*path, one.name)))}]\n{points}"
    if not ours:
        return changed(text, path[:2], lambda camera: camera.update({one.kind: {one.name: _inline(points)}}))
    return added(text, f"\n{table}", ours)


def _inline(points: str) -> Any:
    table = load_tomlkit().inline_table()
    table.update(parsed(points))
    return table
