"""Expands the names of sources: files, folders, globs, cameras and streams."""

from __future__ import annotations

import dataclasses
import glob
import re
from pathlib import Path
from urllib.parse import urlsplit

from seqpar_deploy.errors import VideoError

SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".m2ts", ".mts")
SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "srt")
_RECORDINGS = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v")  # not live over HTTP; all other URLs are
_LONGEST_NAME = 40


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """One video to read. `name` is short, unique and valid in a file name. `place` is a path, device or URL.

    A `live` source has no end: lost connections are retried, and frames that arrive too fast are dropped.
    """

    name: str
    place: str
    live: bool

    @property
    def is_url(self) -> bool:
        """Whether `place` is a URL."""
        return _scheme(self.place) != ""

    @property
    def is_device(self) -> bool:
        """Whether `place` is a local camera."""
        return self.place.startswith("/dev/video")

    @property
    def shown(self) -> str:
        """The place to show in messages: a URL without user, password and query."""
        if not self.is_url:
            return self.place
        parts = urlsplit(self.place)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def expand_sources(names: list[str]) -> list[SourceSpec]:
    """Expand files, folders, globs, camera numbers, devices and URLs to sources, in order, without duplicates.

    It opens no connection. Raises VideoError if a name matches nothing, or if sources are both live and recorded.
    """
    places = list(dict.fromkeys(place for name in names for place in _places(name)))
    if not places:
        raise VideoError(
            "sources must be one or more, got none; name a video file, a camera such as 0, or rtsp://camera/stream"
        )
    specs: list[SourceSpec] = []
    for place in places:
        taken = {spec.name for spec in specs}
        specs.append(SourceSpec(name=_unused(_short_name(place), taken), place=place, live=_is_live(place)))
    if len({spec.live for spec in specs}) > 1:
        raise VideoError("sources must be all files or all live, got both; run them separately")
    return specs


def _places(name: str) -> list[str]:
    if not name:
        raise VideoError("a source must be a file, a camera such as 0, or a URL, got an empty name")
    if name.isdecimal():
        name = f"/dev/video{int(name)}"
    path = Path(name)
    if scheme := _scheme(name):
        if scheme not in SCHEMES:
            raise VideoError(f"a source must be a file or one of {' '.join(SCHEMES)}, got {scheme}://")
        _check_url(name, scheme)
        return [name]
    if path.is_dir():
        inside = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not inside:
            raise VideoError(f"folder {path} must contain one or more videos ({' '.join(SUFFIXES)}), got none")
        return inside
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(f"{path} must be a video, got an empty file; copy it again")
    if path.exists():
        return [str(path)]
    if glob.has_magic(name):
        matches = sorted(match for match in glob.glob(name, recursive=True) if Path(match).is_file())
        if not matches:
            raise VideoError(f"pattern {name!r} must match one or more files, got none; check the path")
        return matches
    if name.startswith("/dev/video"):
        raise VideoError(f"camera {name} does not exist; `ls /dev/video*` lists the cameras of this machine")
    raise VideoError(f"{name} does not exist; check the path")


def _check_url(url: str, scheme: str) -> None:
    """Raise VideoError for a URL that can never connect, because a live source is retried without limit."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:  # its message is not shown, because it may contain a part of the password
        raise VideoError(
            f"a {scheme}:// source must be {scheme}://[USER:PASSWORD@]HOST[:PORT]/PATH, got an invalid URL; write %40 "
            "for an @ in a password"
        ) from None
    if not host and scheme in ("rtsp", "rtsps", "http", "https"):  # the other protocols may listen without a host
        raise VideoError(f"a {scheme}:// source must be {scheme}://HOST[:PORT]/PATH, got no host")


def _scheme(place: str) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", place)
    return found[1].lower() if found else ""


def _is_live(place: str) -> bool:
    scheme = _scheme(place)
    if scheme in ("http", "https"):
        return Path(urlsplit(place).path).suffix.lower() not in _RECORDINGS
    return bool(scheme) or place.startswith("/dev/video")


def _short_name(place: str) -> str:
    if not _scheme(place):
        name = Path(place).stem
    else:
        parts = urlsplit(place)
        name = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:_LONGEST_NAME] or "stream"


def _unused(name: str, taken: set[str]) -> str:
    number, unused = 1, name
    while unused in taken:
        number += 1
        unused = f"{name}-{number}"
    return unused
