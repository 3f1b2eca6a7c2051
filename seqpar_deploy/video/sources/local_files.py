"""Finds videos and sequences of pictures in folders and by patterns (globs, and numbers such as `frame_%06d.png`)."""

from __future__ import annotations

import collections
import dataclasses
import glob
import logging
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from seqpar_deploy.errors import VideoError
from seqpar_deploy.images import picture_suffixes
from seqpar_deploy.video.sources.playlist import files_in, is_complete_file, is_playlist

# Recordings that FFmpeg reads, of cameras, phones, recorders and editors. A file of any other suffix has to be named.
SUFFIXES = (
    *(".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".m2ts", ".mts"),
    *(".3gp", ".3gpp", ".3g2", ".asf", ".dav", ".divx", ".dv", ".f4v", ".gif", ".gxf", ".ivf", ".m2t", ".mj2", ".mk3d"),
    *(".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".vob", ".vro", ".wtv", ".xvid"),
    *(".amv", ".apng", ".m1v", ".m2p", ".m2v", ".mjpeg", ".mjpg", ".mpe", ".mpv", ".obu", ".y4m"),
    *(".avc", ".h261", ".h263", ".h264", ".264", ".h265", ".265", ".hevc", ".h266", ".266", ".vvc"),
)
_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".!qb")  # of downloads and copies
# Folders of systems and file servers, with thumbnails and deleted files. lost+found is also unreadable.
_OF_THE_SYSTEM = ("lost+found", "$recycle.bin", "#recycle", "@eadir", "system volume information", "__macosx")
_NUMBER = re.compile(r"%(0?)([0-9]*)d")  # in the name of a file, as C's printf and FFmpeg write it

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A place to read. `pictures` are the files of a sequence. `problem` tells why the place cannot be read."""

    place: str
    pictures: tuple[str, ...] = ()
    title: str = ""  # of a sequence, to name the stream after
    problem: str = ""


def is_picture(place: str) -> bool:
    """Return whether a file is a still picture, by its suffix."""
    return _suffix(place) in picture_suffixes() and _suffix(place) not in SUFFIXES


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts frame2 before frame10, and ignores case."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[::2] = [str(text).casefold() for text in parts[::2]]
    parts[1::2] = [int(number) for number in parts[1::2]]
    return parts, name


def find_in_folder(folder: str) -> list[Found]:
    """Return the videos in a folder and its subfolders. If there are none, return its sequences of pictures.

    Raises VideoError if there are neither.
    """
    videos, pictures, problems = _walk(folder)
    if videos:
        if pictures:
            _log.info("%s: pictures beside videos are left out, %d; name a pattern to read them", folder, len(pictures))
        return sorted([*map(_video, videos), *problems], key=lambda found: natural(found.place))
    sequences, left_out = [], 0
    for inside, files in _by_folder(pictures).items():
        kinds: dict[str, list[str]] = {}
        for file in files:
            kinds.setdefault(re.sub("[0-9]+", "#", Path(file).stem).casefold(), []).append(file)
        numbered = {kind: of_kind for kind, of_kind in kinds.items() if "#" in kind and len(of_kind) > 1}
        left_out += len(files) - sum(map(len, numbered.values()))
        for kind, of_kind in numbered.items():
            title = _title(inside) if len(numbered) == 1 else f"{_title(inside)}-{kind.replace('#', '')}"
            place = inside if len(numbered) == 1 else os.path.join(inside, kind.replace("#", "*") + ".*")
            sequences.append(_sequence(place, of_kind, title))
    if left_out:
        _log.info("%s: pictures that are not numbered like others are left out, %d", folder, left_out)
    if not sequences and len(problems) == 1:
        raise VideoError(f"{problems[0].place} cannot be read: {problems[0].problem}")
    if not sequences and not problems:
        got = "none" if not left_out else "single pictures; use seqpar predict for them, or name a pattern"
        raise VideoError(f"folder {folder} must contain videos or numbered pictures, got {got}")
    return sorted([*sequences, *problems], key=lambda found: natural(found.place))


def find_by_pattern(name: str) -> list[Found] | None:
    """Return the sources that a pattern matches, None if the name is no pattern. Raises VideoError if none match.

    The pictures that it matches are one source per folder.
    """
    folder, last = os.path.split(name)
    if _NUMBER.search(last):
        folders = [folder] if os.path.isdir(folder or ".") else glob.glob(_with_literal_folders(folder))
        matches = [match for each in folders for match in _numbered(each, last)]
    elif glob.has_magic(name):
        matches = glob.glob(_with_literal_folders(name), recursive=True)
    else:
        return None
    files = sorted((match for match in matches if os.path.isfile(match)), key=natural)
    videos = [file for file in files if _suffix(file) in SUFFIXES]
    pictures = [file for file in files if is_picture(file)]
    if videos:
        if len(files) > len(videos):
            _log.info(
                "%s: files beside videos are left out, %d; name them to read them", name, len(files) - len(videos)
            )
        return [_video(file) for file in videos]
    if pictures:
        return [stills(name, of_folder) for of_folder in _by_folder(pictures).values()]
    if files:
        return [_video(file) for file in files]
    if folders := sorted(filter(os.path.isdir, matches), key=natural):
        return [found for each in folders for found in find_in_folder(each)]
    raise VideoError(f"pattern {name!r} must match one or more files, got none; check the path")


def stills(name: str, files: list[str]) -> Found:
    """Return the pictures in one folder as a sequence. Beside numbered pictures, those without a number are left out.

    A single picture is a video of one frame, and one line says so.
    """
    numbered = [file for file in files if re.search("[0-9]", Path(file).stem)]
    if 1 < len(numbered) < len(files):
        _log.info("%s: pictures without a number are left out, %d", name, len(files) - len(numbered))
        files = numbered
    if len(files) > 1:
        return _sequence(name, files, _title(os.path.dirname(files[0])))
    _log.info("%s: a single picture, read as a video of one frame; seqpar predict reads crops of people", files[0])
    return _sequence(files[0], files, Path(files[0]).stem)


def _walk(folder: str) -> tuple[list[str], list[str], list[Found]]:
    """Return the videos, the pictures and the problems in a folder. Linked folders are entered, each folder once."""
    videos: list[str] = []
    pictures: list[str] = []
    problems: list[Found] = []
    unfinished = 0
    seen: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        problems.append(Found(place=str(error.filename), problem=_reason(error)))

    for inside, folders, files in os.walk(folder, followlinks=True, onerror=failed):
        identity = os.stat(inside)
        if (identity.st_dev, identity.st_ino) in seen:
            folders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        # Links last, so that a file has the name without a link if there is one.
        folders[:] = sorted(
            (name for name in folders if not _is_hidden(name)),
            key=lambda name: (os.path.islink(os.path.join(inside, name)), natural(name)),
        )
        for name in files:
            place = os.path.join(inside, name)
            if _is_hidden(name):
                continue
            unfinished += _suffix(name) in _UNFINISHED and _suffix(Path(name).stem) in SUFFIXES
            if not (_suffix(name) in SUFFIXES or is_picture(name) or is_playlist(name)):
                continue
            try:
                regular = stat.S_ISREG(os.stat(place).st_mode)
            except OSError as error:
                broken = os.path.islink(place) and isinstance(error, FileNotFoundError)
                problem = "it is a link to a missing file; copy the file" if broken else _reason(error)
                problems.append(Found(place=place, problem=problem))
                continue
            if regular:
                (pictures if is_picture(name) else videos).append(place)
    if unfinished:
        _log.info("%s: unfinished downloads are left out, %d", folder, unfinished)
    once = _without_links(folder, videos)
    return _in_playlists(once), _without_links(folder, pictures), problems


def _without_links(folder: str, files: list[str]) -> list[str]:
    """Leave out links to files that are read anyway, for example latest.mp4."""
    real: dict[str, str] = {}
    for file in sorted(files, key=os.path.islink):
        real.setdefault(os.path.realpath(file), file)
    if links := len(files) - len(real):
        _log.info("%s: links to files that are read anyway are left out, %d", folder, links)
    return list(real.values())


def _in_playlists(videos: list[str]) -> list[str]:
    """Replace the segments of complete HLS playlists by the playlists, and leave out incomplete playlists."""
    complete = [video for video in videos if is_playlist(video) and is_complete_file(Path(video))]
    segments = {os.path.normpath(file) for playlist in complete for file in files_in(Path(playlist))}
    files = [video for video in videos if not is_playlist(video)] + complete
    return [file for file in files if os.path.normpath(file) not in segments]


def _numbered(folder: str, last: str) -> list[str]:
    """Return the files in a folder that a pattern such as `frame_%06d.png` matches."""
    pattern, end = "", 0
    for number in _NUMBER.finditer(last):
        width = int(number[2] or 1)
        padding = "" if number[1] or width == 1 else " *"  # %4d pads with spaces
        pattern += re.escape(last[end : number.start()]) + padding + (f"[0-9]{{{width},}}" if number[1] else "[0-9]+")
        end = number.end()
    pattern = (pattern + re.escape(last[end:])).replace("%%", "%")
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder or ".") if re.fullmatch(pattern, name)]
    except OSError as error:
        raise VideoError(f"{folder or '.'} cannot be read: {_reason(error)}") from None


def _with_literal_folders(name: str) -> str:
    """Escape the folders at the beginning of a glob that exist as they are written, for example cam[1]/*.mp4."""
    path = Path(name)
    for parent in path.parents:  # the longest first
        if parent.is_dir():
            return os.path.join(glob.escape(str(parent)), path.relative_to(parent))
    return name


def _by_folder(files: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for file in files:
        folders.setdefault(os.path.dirname(file), []).append(file)
    return folders


def _sequence(place: str, files: list[str], title: str) -> Found:
    """Return pictures in the order of their numbers. Of two that differ in the suffix only, one is left out."""
    kinds = collections.Counter(map(_suffix, files))
    one_of_each: dict[str, str] = {}
    for file in sorted(files, key=lambda file: (-kinds[_suffix(file)], _suffix(file))):
        one_of_each.setdefault(os.path.splitext(file)[0], file)
    if copies := len(files) - len(one_of_each):
        _log.info("%s: pictures that also exist with another suffix are left out, %d", place, copies)
    return Found(place=place, pictures=tuple(sorted(one_of_each.values(), key=natural)), title=title)


def _video(place: str) -> Found:
    return Found(place=place)


def _title(folder: str) -> str:
    return Path(folder).name or Path(folder).resolve().name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _OF_THE_SYSTEM


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
