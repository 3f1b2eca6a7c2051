"""The entries of an archive: pictures, members of tar archives, rows of Parquet files, and videos."""

from __future__ import annotations

import datetime
import logging
import os
import tarfile
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.images import picture_suffixes
from seqpar_deploy.serving.archive.naming import Naming
from seqpar_deploy.serving.archive.places import find, open_place, reason
from seqpar_deploy.serving.archive.sdk import import_parquet
from seqpar_deploy.serving.archive.tables import SUFFIXES as TABLES
from seqpar_deploy.serving.archive.tables import people_of_table
from seqpar_deploy.video.sources.local_files import SUFFIXES as VIDEOS

Kind = Literal["picture", "member", "row", "video"]
Pixels = tuple[int, int, int, int]

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_IMAGE = "image"  # column of a Parquet file: the bytes, or as Hugging Face writes them, a struct with `bytes`

_log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One picture or one video of an archive.

    Attributes:
        kind: How to read it.
        source: File that holds it, an absolute path or an address.
        entry: Member of the tar archive, row of the Parquet file, or box of the table. Default: the whole file.
        offset: Where the bytes of a member start, or the number of a row. Default: none.
        size: Bytes of a member. Default: none.
        camera: Name of the camera. Default: unknown.
        captured_at: Microseconds since 1970 (UTC). Default: unknown.
        box: Left, top, right and bottom of the person in pixels. Default: the whole picture is one person.
    """

    kind: Kind
    source: str
    entry: str | None = None
    offset: int | None = None
    size: int | None = None
    camera: str | None = None
    captured_at: int | None = None
    box: Pixels | None = None

    @property
    def id(self) -> str:
        """Identifies the entry, whatever its content: its source, and its place in it."""
        return self.source if self.entry is None else f"{self.source}#{self.entry}"


def list_entries(inputs: Iterable[str], naming: Naming, *, without: str = "") -> Iterator[Entry]:
    """Yield the entries of all inputs, in their order.

    Folders are searched for pictures, videos, tar archives, and Parquet files with a column `image`. Tables (CSV and
    JSON Lines) have to be named.

    Args:
        inputs: Absolute paths, globs and addresses.
        naming: How names tell camera and time. A table or a Parquet file may tell them in columns.
        without: Folder to leave out, that of the job. Default: none.

    Raises:
        ArchiveError: An input cannot be read, or has no entry.
    """
    for name in inputs:
        empty = True
        for place, named in find(name):
            if without and place.startswith(f"{without}{os.sep}"):
                continue
            for entry in _entries_of(place, named, naming):
                empty = False
                _check_name(entry)
                yield entry
        if empty:
            raise ArchiveError(f"input {name} must have pictures or videos, got none; check the path")


def _entries_of(place: str, named: bool, naming: Naming) -> Iterator[Entry]:
    suffix = os.path.splitext(place)[1].lower()
    if suffix in VIDEOS:
        yield _named(Entry(kind="video", source=place), naming)
    elif suffix in picture_suffixes():
        yield _named(Entry(kind="picture", source=place), naming)
    elif suffix == ".tar":
        yield from _members(place, naming)
    elif suffix == ".parquet":
        yield from _rows(place, named, naming)
    elif suffix in TABLES and named:
        for image, box, camera, captured_at in people_of_table(place, naming):
            entry = None if box is None else ",".join(map(str, box))
            found = Entry(kind="picture", source=image, entry=entry, box=box, camera=camera, captured_at=captured_at)
            yield _named(found, naming)
    elif place.lower().endswith(_COMPRESSED) and named:
        raise ArchiveError(f"tar archive {place} must not be compressed, got {suffix}; unpack it to .tar")
    elif named:
        raise ArchiveError(
            f"input {place} must be a picture, a video, .tar, .parquet, .csv or .jsonl, got {suffix or 'no suffix'}; "
            "check the path"
        )


def _check_name(entry: Entry) -> None:
    """Raise ArchiveError if the name cannot be a text of a Parquet file."""
    try:
        entry.id.encode()
    except UnicodeEncodeError:
        name = os.fsencode(entry.id).decode("ascii", "backslashreplace")
        raise ArchiveError(f"names of an archive must be UTF-8, got {name}; rename it") from None


def _named(entry: Entry, naming: Naming) -> Entry:
    """Fill in camera and time from the name, where the source does not tell them."""
    name = entry.id
    camera = naming.camera_of(name) if entry.camera is None else entry.camera
    captured_at = naming.captured_at_of(name) if entry.captured_at is None else entry.captured_at
    if camera == entry.camera and captured_at == entry.captured_at:
        return entry
    return msgspec.structs.replace(entry, camera=camera, captured_at=captured_at)


def _members(place: str, naming: Naming) -> Iterator[Entry]:
    """Yield the pictures of a tar archive. Only its headers are read."""
    try:
        with open_place(place) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # otherwise it keeps every header in memory
                suffix = os.path.splitext(member.name)[1].lower()
                if member.isreg() and suffix in picture_suffixes():
                    found = Entry(
                        kind="member",
                        source=place,
                        entry=member.name,
                        offset=member.offset_data,
                        size=member.size,
                    )
                    yield _named(found, naming)
    except ArchiveError:
        raise
    except tarfile.TarError as error:
        raise ArchiveError(f"{place} must be an uncompressed tar archive, got another file: {reason(error)}") from None
    except Exception as error:
        raise ArchiveError(f"{place} cannot be read: {reason(error)}; check the file") from None


def _rows(place: str, named: bool, naming: Naming) -> Iterator[Entry]:
    """Yield the rows of a Parquet file with pictures."""
    parquet = import_parquet()
    try:
        with open_place(place) as opened, parquet.ParquetFile(opened) as file:
            names = file.schema_arrow.names
            if _IMAGE not in names:
                if named:
                    raise ArchiveError(f"{place} must have a column `image`, got {', '.join(names[:4])}; rename one")
                _log.info("%s has no column `image` and is left out", place)
                return
            about = [name for name in ("camera", "captured_at") if name in names]
            number = 0
            for batch in file.iter_batches(columns=about or [names[0]], batch_size=65_536) if about else ():
                for row in batch.to_pylist():
                    yield _row(place, number, row, naming)
                    number += 1
            if not about:
                for number in range(file.metadata.num_rows):
                    yield _row(place, number, {}, naming)
    except ArchiveError:
        raise
    except Exception as error:
        raise ArchiveError(f"{place} cannot be read: {reason(error)}; check the file") from None


def _row(place: str, number: int, row: dict[str, Any], naming: Naming) -> Entry:
    time = row.get("captured_at")
    if isinstance(time, str):
        time = naming.from_text(time)
    elif isinstance(time, datetime.datetime):
        time = naming.microseconds(time)
    elif time is not None:
        raise ArchiveError(f"captured_at of {place} must be a timestamp or ISO 8601 text, got {time!r} in row {number}")
    camera = row.get("camera")
    found = Entry(
        kind="row",
        source=place,
        entry=str(number),
        offset=number,
        camera=None if camera is None else str(camera),
        captured_at=time,
    )
    return _named(found, naming)
