"""Files by path or by address: local ones directly, others (s3://, gs://, https://) with fsspec."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.redaction import redacted, shown, split_address
from seqpar_deploy.serving.archive.sdk import import_fsspec

T = TypeVar("T")

LARGEST = 64 * 1024 * 1024  # bytes of one encoded picture: bounds the memory of a worker

_TRIES = 3  # of a read from an address
_PAUSE = 1.0  # seconds before the second try, doubled before each further one


def is_address(name: str) -> bool:
    """Return whether a name is an address, for example s3://bucket/people."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) is not None


def absolute(name: str) -> str:
    """Return the name that a plan keeps: an absolute path, or an address. Raises ArchiveError for credentials in it."""
    if not name:
        raise ArchiveError("an input must be a file, folder, glob or address, got an empty name; omit it")
    if name.startswith(("file://", "local://")):
        name = name.partition("://")[2]
    if not is_address(name):
        return os.path.abspath(name)
    parts = split_address(name)
    signed = parts is not None and parts.scheme in ("http", "https") and "?" in parts.rest
    if parts is None or parts.userinfo or signed:
        raise ArchiveError(
            f"an input must be an address without credentials, got {shown(name)}; pass them in the environment or in "
            "fsspec's configuration"
        )
    return name


def find(name: str) -> Iterator[tuple[str, bool]]:
    """Yield the files that a path, folder, glob or address stands for, in order, and whether each one was named.

    Files in folders were not named, so files of other kinds among them are no mistake.

    Raises:
        ArchiveError: There is nothing at this name, or it cannot be read.
    """
    if is_address(name):
        yield from _find_at_address(name)
    elif os.path.isdir(name):
        yield from ((file, False) for file in _in_folder(name))
    elif os.path.lexists(name):
        yield name, True
    elif glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise ArchiveError(f"input {name} must match one file or more, got none; check the pattern")
        for match in matches:
            yield from ((file, False) for file in (_in_folder(match) if os.path.isdir(match) else [match]))
    else:
        raise ArchiveError(f"input {name} does not exist; check the path")


def open_place(place: str) -> BinaryIO:
    """Open a file to read, at any position. Raises OSError and, for addresses, exceptions of fsspec's file systems."""
    if not is_address(place):
        return open(place, "rb")
    file: BinaryIO = import_fsspec().open(place, "rb").open()
    return file


def read_place(place: str, offset: int | None = None, size: int | None = None) -> bytes:
    """Read a file, or a part of it, of at most 64 MiB. A read from an address is tried three times.

    Raises:
        OSError: The file cannot be read. Exceptions of fsspec's file systems become one.
        ValueError: It is too large.
    """

    def read() -> bytes:
        with open_place(place) as file:
            if offset is not None:
                file.seek(offset)
            content = file.read(LARGEST + 1 if size is None else min(size, LARGEST + 1))
        if len(content) > LARGEST:
            raise ValueError(f"it must have at most {LARGEST >> 20} MiB, got more")
        if size is not None and len(content) < size:
            raise ValueError(f"it must have {size} bytes, got {len(content)}: the file was cut short")
        return content

    return patiently(read) if is_address(place) else read()


def patiently(read: Callable[[], T]) -> T:
    """Return the result of a read over the network, tried three times. Raises OSError, and ValueError at once."""
    for number in range(_TRIES):
        try:
            return read()
        except (ValueError, FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # each file system has its own kinds
            last = error
            if number + 1 < _TRIES:
                time.sleep(_PAUSE * 2**number)
    raise OSError(reason(last)) from None


def reason(error: BaseException) -> str:
    """Return why a file cannot be read, in one line without secrets, equal in all runs."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r" at 0x[0-9a-f]+", "", redacted(" ".join(str(text).split())))


def _in_folder(folder: str) -> Iterator[str]:
    """Yield the files in a folder and below, in order. Linked folders are followed, each real folder once."""

    def failed(error: OSError) -> None:
        raise ArchiveError(f"folder {error.filename} cannot be read: {error.strerror}; check its permissions")

    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=failed):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(files) if not name.startswith("."))


def _find_at_address(address: str) -> Iterator[tuple[str, bool]]:
    fsspec = import_fsspec()
    try:
        files, path = fsspec.core.url_to_fs(address)
        found: list[Any] = patiently(lambda: _listed(files, path))
    except (ImportError, ValueError) as error:  # a protocol that fsspec does not know, or whose package is missing
        raise ArchiveError(f"input {shown(address)} cannot be read: {reason(error)}; check the address") from None
    except OSError as error:
        raise ArchiveError(
            f"input {shown(address)} cannot be read: {reason(error)}; check address and access"
        ) from None
    if not found:
        raise ArchiveError(f"input {shown(address)} must be one file or more, got none; check the address")
    for one in sorted(found):
        yield files.unstrip_protocol(one), found == [path]


def _listed(files: Any, path: str) -> list[Any]:
    if glob.has_magic(path):
        return [one for match in files.glob(path) for one in (files.find(match) if files.isdir(match) else [match])]
    return list(files.find(path)) if files.isdir(path) else [path] if files.exists(path) else []
