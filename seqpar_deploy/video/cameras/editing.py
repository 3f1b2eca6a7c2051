"""Changes of a config file that keep its comments and its order (tomlkit)."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.cameras.tables import load_tomlkit, parsed, removed

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
    settings = parsed(body.decode("utf-8", "replace"), "the settings")
    if not settings:
        raise VideoError(f"the settings must be TOML with an address, got none; {name}{_REMOVE} removes a camera")
    return lambda content: with_camera(content, name, settings)


def with_camera(content: str, name: str, settings: MutableMapping[str, Any]) -> str:
    """Return the content with other settings of a camera, or with a new camera at its end."""
    document = parsed(content)
    cameras = document.setdefault("cameras", load_tomlkit().table(is_super_table=True))
    table = cameras.setdefault(name, load_tomlkit().table())
    for key in [key for key in table if key not in settings]:
        del table[key]
    table.update(settings)  # in place: comments below a table belong to it
    return str(load_tomlkit().dumps(document))


def without_camera(content: str, name: str) -> str:
    """Return the content without a camera. Raises VideoError if there is none of that name."""
    document = parsed(content)
    cameras = document.get("cameras", {})
    if name not in cameras:
        known = ", ".join(cameras) or "none"
        raise VideoError(f"the name must be one of a camera in the file, got {name}; the cameras are {known}")
    return removed(content, ("cameras", name))
