"""Changes of a config file that keep its comments and its order (tomlkit)."""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from typing import Any

from seqpar_deploy.errors import BackendUnavailableError, VideoError

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
    settings = _parsed(body.decode("utf-8", "replace"), "the settings")
    if not settings:
        raise VideoError(f"the settings must be TOML with an address, got none; {name}{_REMOVE} removes a camera")
    return lambda content: with_camera(content, name, settings)


def with_camera(content: str, name: str, settings: MutableMapping[str, Any]) -> str:
    """Return the content with other settings of a camera, or with a new camera at its end."""
    document = _parsed(content, "the config file")
    cameras = document.setdefault("cameras", _tomlkit().table(is_super_table=True))
    table = cameras.setdefault(name, _tomlkit().table())
    for key in [key for key in table if key not in settings]:
        del table[key]
    table.update(settings)  # in place: comments below a table belong to it
    return str(_tomlkit().dumps(document))


def without_camera(content: str, name: str) -> str:
    """Return the content without a camera. Raises VideoError if there is none of that name."""
    document = _parsed(content, "the config file")
    cameras = document.get("cameras", {})
    if name not in cameras:
        known = ", ".join(cameras) or "none"
        raise VideoError(f"the name must be one of a camera in the file, got {name}; the cameras are {known}")
    before = {other: dict(settings) for other, settings in cameras.items() if other != name}
    rest = _without_tables(content, f"cameras.{name}")
    if _parsed(rest, "the config file").get("cameras", {}) == before:
        return rest
    del cameras[name]  # of a file that has no table of its own for each camera
    return str(_tomlkit().dumps(document))


def _without_tables(content: str, name: str) -> str:
    """Remove a table and those within it, but not the comments above the next one, which tomlkit would remove too."""
    kept: list[str] = []
    removed: list[str] = []
    inside = False
    for line in content.splitlines(keepends=True):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line):
            was_inside, inside = inside, header[1] == name or header[1].startswith(f"{name}.")
            if was_inside and not inside:
                kept += _comments_at_end(removed)
            removed = []
        (removed if inside else kept).append(line)
    return "".join(kept + _comments_at_end(removed))


def _comments_at_end(lines: list[str]) -> list[str]:
    """Return the comments and blank lines at the end."""
    number = len(lines)
    while number and (not lines[number - 1].strip() or lines[number - 1].lstrip().startswith("#")):
        number -= 1
    return lines[number:]


def _parsed(text: str, what: str) -> MutableMapping[str, Any]:
    try:
        parsed: MutableMapping[str, Any] = _tomlkit().parse(text)
    except ValueError as error:
        raise VideoError(f"{what} must be TOML: {error}; correct it") from None
    return parsed


def _tomlkit() -> Any:
    try:
        import tomlkit
    except ImportError:
        raise BackendUnavailableError("tomlkit is not installed; pip install 'seqpar-deploy[video]'") from None
    return tomlkit
