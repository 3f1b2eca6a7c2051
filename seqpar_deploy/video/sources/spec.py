"""Expands the names of sources: files, folders, patterns, cameras and streams."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from seqpar_deploy import redaction
from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.local_files import Found, find_by_pattern, find_in_folder, is_picture, stills
from seqpar_deploy.video.sources.playlist import is_complete_file, is_playlist
from seqpar_deploy.video.sources.url_kind import kinds_of

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "srt")
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_LONGEST_NAME = 40
_FPS = 25.0  # of a sequence of pictures
_POLLS = 5.0  # of a snapshot URL per second: enough to follow people who walk, and 10 Mbit/s of a usual camera

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceSpec:
    """One video to read. `name` is short, unique and valid in a file name. `place` is a path, device or URL.

    A `live` source has no end: lost connections are retried, and frames that arrive too fast are dropped. A sequence
    has its `pictures` in order. A `polled` URL returns one picture per request. Both have an `fps`. A place with a
    `problem` cannot be read, for example a folder without permission.
    """

    name: str
    place: str = dataclasses.field(repr=False)  # it may hold a password
    live: bool
    polled: bool = False
    pictures: tuple[str, ...] = ()
    fps: float = _FPS
    problem: str = ""

    @property
    def is_url(self) -> bool:
        """Whether `place` is a URL."""
        return _scheme(self.place) != ""

    @property
    def can_be_read_twice(self) -> bool:
        """Whether it can be read again from its start. A pipe cannot, a URL may not."""
        place = Path(self.place)
        return not self.is_url and (not place.exists() or place.is_file() or place.is_dir())

    @property
    def is_device(self) -> bool:
        """Whether `place` is a local camera."""
        return _is_device(self.place)

    @property
    def shown(self) -> str:
        """The place to show in messages: a URL without user, password, query and what may be a secret in its path."""
        return redaction.shown(self.place) if self.is_url else self.place


def expand_sources(names: list[str], *, live: bool | None = None, fps: float | None = None) -> list[SourceSpec]:
    """Expand files, folders, patterns, camera numbers, devices and URLs to sources, in order, without duplicates.

    `live` overrides the guess whether sources have an end. HTTP servers are asked if the URL does not tell, for 2 s at
    most. `fps` is of sequences of pictures (default: 25) and of snapshot URLs (default: 5 requests per second). Raises
    VideoError if a name matches nothing, or if sources are both live and recorded.
    """
    if fps is not None and not 0 < fps < math.inf:
        raise VideoError(f"fps must be above 0, got {fps:g}; omit it for the default")
    places = _with_sequences([found for name in names for found in _places(name)])
    if not places:
        raise VideoError(
            "sources must be one or more, got none; name a video file, a camera such as 0, or rtsp://camera/stream"
        )
    for found in places:
        redaction.remember(found.place)
    kinds = kinds_of([found.place for found in places if _scheme(found.place)])
    specs: dict[object, SourceSpec] = {}
    twice: list[str] = []
    for found in places:
        kind = kinds.get(found.place)
        polled = kind == "snapshot" and live is not False
        guess = kind != "recording" if kind else _is_live(found.place)
        spec = SourceSpec(
            name=_unused(_name(found), {spec.name for spec in specs.values()}),
            place=found.place,
            live=guess if live is None or found.problem else live,
            polled=polled,
            pictures=found.pictures,
            fps=fps or (_POLLS if polled else _FPS),
            problem=found.problem,
        )
        if (first := specs.setdefault(_identity(found), spec)) is not spec:
            twice.append(spec.shown if spec.place == first.place else f"{spec.shown} (as {first.shown})")
    if twice:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        _log.info("%s%s: named twice, read once", twice[0], more)
    if live and any(spec.pictures for spec in specs.values()):
        raise VideoError("a sequence of pictures must be read as a recording, got --live; omit --live")
    if len({spec.live for spec in specs.values() if not spec.problem}) > 1:
        raise VideoError(
            "sources must be all files or all live, got both; run them separately, or add --live or --recorded"
        )
    return list(specs.values())


def check_fps(specs: list[SourceSpec], fps: float | None) -> None:
    """Raise VideoError if `fps` was given, but no source has it."""
    if fps is not None and not any(spec.pictures or spec.polled for spec in specs):
        raise VideoError("fps must belong to a sequence of pictures or a snapshot URL, got neither; omit --fps")


def _with_sequences(places: list[Found]) -> list[Found]:
    """Make one sequence of the pictures in each folder that are named singly: a shell expands patterns so."""
    folders: dict[str, list[str]] = {}
    for found in places:
        if _is_still(found):
            folders.setdefault(os.path.dirname(found.place), []).append(found.place)
    merged = []
    for found in places:
        if not _is_still(found):
            merged.append(found)
        elif files := folders.pop(os.path.dirname(found.place), None):
            merged.append(stills(os.path.dirname(found.place) or ".", list(dict.fromkeys(files))))
    return merged


def _places(name: str) -> list[Found]:
    if not name:
        raise VideoError("a source must be a file, a camera such as 0, or a URL, got an empty name")
    if name.isdecimal():
        name = f"/dev/video{int(name)}"
    if (scheme := _scheme(name)) == "file":
        name = unquote(urlsplit(name).path)
    elif scheme:
        if scheme not in SCHEMES:
            raise VideoError(f"a source must be a file or one of {' '.join(SCHEMES)}, got {scheme}://")
        _check_url(name, scheme)
        return [Found(place=scheme + name[len(scheme) :])]  # FFmpeg knows protocols in small letters only
    path = Path(name)
    if path.is_dir():
        return find_in_folder(str(path))
    if path.is_file() and path.stat().st_size == 0 and not is_picture(name):
        raise VideoError(f"{path} must be a video, got an empty file; copy it again")
    if path.exists():
        return [Found(place=str(path))]
    if (found := find_by_pattern(name)) is not None:
        return found
    if name.startswith("/dev/video"):
        raise VideoError(f"camera {name} does not exist; `ls /dev/video*` lists the cameras of this machine")
    raise VideoError(f"{redaction.redacted(name)} does not exist; check the path")


def _check_url(url: str, scheme: str) -> None:
    """Raise VideoError for a URL that can never connect, because a live source is retried without limit."""
    address = redaction.split_address(url)
    misread = address is not None and address.misread  # FFmpeg would connect to a part of the password
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:  # its message is not shown, because it may contain a part of the password
        host, misread = None, True
    if misread or (host and address is not None and not address.host):  # the second has a host that no machine has
        raise VideoError(
            f"a {scheme}:// source must be {scheme}://[USER:PASSWORD@]HOST[:PORT]/PATH, got an invalid URL; write %40 "
            "for @, %2F for /, %3F for ? and %23 for # in a password, or pass it as ${NAME}; a host has no spaces"
        )
    if not host and scheme in ("rtsp", "rtsps", "http", "https"):  # the other protocols may listen without a host
        raise VideoError(f"a {scheme}:// source must be {scheme}://HOST[:PORT]/PATH, got no host")


def _scheme(place: str) -> str:
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", place)
    return found[1].lower() if found else ""


def _is_device(place: str) -> bool:
    return os.path.realpath(place).startswith("/dev/video")  # also links such as /dev/v4l/by-id/...


def _is_live(place: str) -> bool:
    """Return whether a local place has no end: a camera, or an HLS playlist that is still written."""
    return _is_device(place) or (is_playlist(place) and not is_complete_file(Path(place)))


def _is_still(found: Found) -> bool:
    return not found.pictures and not found.problem and not _scheme(found.place) and is_picture(found.place)


def _identity(found: Found) -> object:
    """Return equal values for two names of one place: relative paths, linked folders, or ways to write a URL.

    A link with a name of its own is a source of its own: the name tells its stream apart.
    """
    if scheme := _scheme(found.place):
        parts = urlsplit(found.place)
        host = parts.netloc.rpartition("@")[2] if parts.hostname is None else parts.hostname
        return parts._replace(netloc=host), parts.username, parts.password, parts.port or _PORTS.get(scheme)
    return tuple(map(_file_identity, found.pictures or (found.place,)))


def _file_identity(path: str) -> str:
    if _is_device(path):
        return os.path.realpath(path)  # a camera can be opened once
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder or "."), name)


def _name(found: Found) -> str:
    return (_clean(found.title) or "stream") if found.title else _short_name(found.place)


def _short_name(place: str) -> str:
    """Return a name without secrets. The channels of one recorder, which often stand in the query, differ in it."""
    address = redaction.split_address(place)
    name = Path(place).stem if address is None else f"{address.host}{address.path}"
    channels = address.channels[: _LONGEST_NAME // 2] if address else ""
    return "-".join(filter(None, (_clean(name, _LONGEST_NAME - len(channels)), channels))) or "stream"


def _clean(name: str, longest: int = _LONGEST_NAME) -> str:
    return re.sub(r"[^\w.]+", "-", name).strip("-.")[:longest].rstrip("-.")


def _unused(name: str, taken: set[str]) -> str:
    number, unused = 1, name
    while unused in taken:
        number += 1
        unused = f"{name}-{number}"
    return unused
