"""Changes of a config file that keep its comments and its order (tomlkit)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.cameras.tables import Path, added, key, load_tomlkit, parsed, removed, spans, written

_REMOVE = "/remove"


def change_of(path: str, body: bytes) -> Callable[[str], str]:
    """Return the change that a request makes in the content of a config file.

    Args:
        path: `NAME` to add or change a camera, `NAME/remove` to remove it.
        body: The settings of the camera as TOML. Of a removal, nothing.

    Raises:
        VideoError: The body is not TOML, or there is no name.
    """
    name = path.removesuffix(_REMOVE)
    if not name or "/" in name:
        raise VideoError(f"the path must be a camera's name, or NAME{_REMOVE}, got {path or 'none'}; correct it")
    if path.endswith(_REMOVE):
        return lambda content: without_camera(content, name)
    settings = parsed(body.decode("utf-8-sig", "replace"), "the settings")
    if not settings:
        raise VideoError(f"the settings must be TOML with an address, got none; {name}{_REMOVE} removes a camera")
    return lambda content: with_camera(content, name, settings)


def with_camera(content: str, name: str, settings: Any) -> str:
    """Return the content with other settings of a camera, or with a new camera at its end."""
    wanted = settings.unwrap()
    expected = parsed(content).unwrap()
    expected.setdefault("cameras", {})[name] = wanted
    for write in (_in_place, _by_tomlkit, _anew):
        try:
            text = write(content, ("cameras", name), wanted)
            if parsed(text).unwrap() == expected:
                return text
        except (VideoError, load_tomlkit().exceptions.TOMLKitError, LookupError, TypeError, ValueError):
            continue  # tomlkit cannot change all that it can read
    raise VideoError(
        f"cameras must be tables of their own to be changed by request, for example [cameras.{key(name)}], got another "
        "form; change the file"
    )


def _in_place(content: str, path: Path, wanted: Mapping[str, Any]) -> str:
    """Change the keys and tables that differ, each where it stands. New ones come below those of their table."""
    before = _at(parsed(content), path).unwrap()
    different = [one for one in {**before, **wanted} if before.get(one) != wanted.get(one)]
    tables = {one for one in different if isinstance(before.get(one, wanted.get(one)), Mapping)}
    values = {one: wanted[one] for one in different if one in wanted and one not in tables}
    content = _with_values(content, path, {one: value for one, value in values.items() if one in before})
    if new := {one: value for one, value in values.items() if one not in before}:
        here = [(start, end) for start, end, header in spans(content) if header == path]
        content = added(content, written((), new).partition("]\n")[2], here[:1])
    for one in sorted(tables & wanted.keys()):
        if one in before:
            content = _in_place(content, (*path, one), wanted[one])
        else:
            below = [(start, end) for start, end, header in spans(content) if header[: len(path)] == path]
            content = added(content, written((*path, one), wanted[one]), below)
    for one in different:  # at last: a table whose tables are all removed is no more
        if one not in wanted:
            content = removed(content, (*path, one))
    return content


def _with_values(content: str, path: Path, values: Mapping[str, Any]) -> str:
    if not values:
        return content
    document = parsed(content)
    _at(document, path).update(values)
    return str(load_tomlkit().dumps(document))


def _at(document: Any, path: Path) -> Any:
    for part in path:
        document = document[part]
    return document


def _by_tomlkit(content: str, path: Path, wanted: Mapping[str, Any]) -> str:
    """Change tables without headers of their own."""
    document = parsed(content)
    cameras = document.setdefault("cameras", load_tomlkit().table(is_super_table=True))
    table = cameras.setdefault(path[-1], load_tomlkit().table())
    for one in [one for one in table if one not in wanted]:
        del table[one]
    table.update(wanted)
    return str(load_tomlkit().dumps(document))


def _anew(content: str, path: Path, wanted: Mapping[str, Any]) -> str:
    """Write the camera at the end, in place of what there was."""
    if path[-1] in parsed(content).get("cameras", {}):
        content = removed(content, path)
    return added(content, written(path, wanted), ())


def without_camera(content: str, name: str) -> str:
    """Return the content without a camera. Raises VideoError if there is none of that name."""
    document = parsed(content)
    cameras = document.get("cameras", {})
    if name not in cameras:
        known = ", ".join(cameras) or "none"
        raise VideoError(f"the name must be one of a camera in the file, got {name}; the cameras are {known}")
    return removed(content, ("cameras", name))
