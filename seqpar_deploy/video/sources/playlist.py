"""Reads HLS playlists (.m3u8) as far as needed: whether they are complete, and the files in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def is_playlist(place: str) -> bool:
    """Return whether a file or the path of a URL is an HLS playlist, by its suffix."""
    return Path(place).suffix.lower() == ".m3u8"


def is_complete(playlist: str) -> bool:
    """Return whether a playlist has an end: it is a recording then, and a live stream otherwise."""
    return "#EXT-X-ENDLIST" in playlist


def first_variant(playlist: str) -> str | None:
    """Return the address of the first variant in a main playlist, None in any other."""
    variants = playlist.partition("#EXT-X-STREAM-INF")[2].splitlines()[1:]
    return next(iter(_entries(variants)), None)


def is_complete_file(path: Path) -> bool:
    """Return whether the playlist in a file has an end. A main playlist is judged by its first variant."""
    text = _text(path)
    if variant := first_variant(text):
        text = _text(path.parent / variant)
    return is_complete(text)


def files_in(path: Path) -> list[Path]:
    """Return the files that the playlist in a file names."""
    return [path.parent / entry for entry in _entries(_text(path).splitlines()) if "://" not in entry]


def _entries(lines: Iterable[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except (OSError, ValueError):
        return ""
