"""The folder of a job: a lock, the files of finished shards, and no leftovers of killed runs."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.files import why_not_written
from seqpar_deploy.serving.archive.parquet_files import write_tables
from seqpar_deploy.serving.archive.plan import ENTRIES, PLAN

SHARDS = "shards"

_LOCK = ".lock"
_SHARD = re.compile(r"(\d{6,})\.parquet")
_LEFTOVER = re.compile(r"\..+\.parquet\..+|\.plan\.json\..+")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a job for a block, and remove what killed runs left behind. The kernel frees it on any death.

    Raises:
        ArchiveError: Another process holds it, the folder holds something else, or it cannot be written.
    """
    import fcntl  # missing on Windows

    if folder.is_dir() and not (folder / PLAN).exists() and any(one.name not in _OWN for one in folder.iterdir()):
        raise ArchiveError(f"{folder} must be a job or a new folder, got one with other files; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / _LOCK).open("a+")
    except OSError as error:
        raise ArchiveError(f"{folder} cannot be written: {why_not_written(error, folder) or error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArchiveError(f"job {folder} must not run twice, got a run that holds it; wait for its end") from None
        except OSError as error:
            raise ArchiveError(
                f"{folder} cannot be locked: {error.strerror}; choose a folder on another disk"
            ) from None
        for place in (folder, folder / ENTRIES, folder / SHARDS):
            _remove_leftovers(place)
        yield


def is_running(folder: Path) -> bool:
    """Return whether a process holds the lock of a job."""
    import fcntl

    try:
        with (folder / _LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def shard_file(folder: Path, number: int) -> Path:
    """Return the path of the results of a shard."""
    return folder / SHARDS / f"{number:06d}.parquet"


def finished_shards(folder: Path) -> set[int]:
    """Return the numbers of the shards whose results are there."""
    try:
        names = os.listdir(folder / SHARDS)
    except FileNotFoundError:
        return set()
    return {int(match[1]) for name in names if (match := _SHARD.fullmatch(name))}


def write_shard(folder: Path, number: int, table: Any) -> None:
    """Write the results of a shard beside its place, flush them to the disk, and rename them. Raises ArchiveError."""
    path = shard_file(folder, number)
    try:
        write_tables(path, table.schema, [table])
    except OSError as error:
        raise ArchiveError(f"{path} cannot be written: {why_not_written(error, path) or error.strerror}") from None


_OWN = {_LOCK, ENTRIES, SHARDS}


def _remove_leftovers(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for one in folder.iterdir():
            if _LEFTOVER.fullmatch(one.name):
                one.unlink(missing_ok=True)
