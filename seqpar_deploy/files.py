"""Write files and folders atomically: a reader sees the old one or the new one, never a partial one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import SeqparError

_log = logging.getLogger(__name__)

_FIXES = {  # of the errors that a write can end in
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EROFS: "choose a folder on another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.ELOOP: "its links form a circle; choose another folder",
    errno.ENOTEMPTY: "another process writes there too; choose another name",
    errno.EEXIST: "a file has this name; choose another name",
    errno.EISDIR: "name a file",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the network drive",
    errno.ETIMEDOUT: "check the network drive",
}
_IN_WORDS = re.compile("|".join(f"({re.escape(os.strerror(number))})" for number in _FIXES), re.IGNORECASE)
_FULL = 64 * 1024  # bytes; a disk with less free space is full


def why_not_written(error: BaseException, path: Path) -> str | None:
    """Return the reason of a failed write and the fix, for "FILE cannot be written: ...".

    Libraries report a full disk as errors of their own, so their text and the disk are looked at too.

    Args:
        error: The exception.
        path: The file or folder that was written, or a folder above it.

    Returns:
        For example "No space left on device; free some space". None if writing was not the problem.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _IN_WORDS.search(str(error))):
        number = [*_FIXES][(found.lastindex or 1) - 1]
    if number is None and (earlier := error.__cause__ or error.__context__) is not None:
        return why_not_written(earlier, path)
    space = _space(path)
    if number is None and space and space.f_bavail * space.f_frsize < _FULL:
        number = errno.ENOSPC
    is_write = isinstance(error, OSError) or "writ" in str(error).lower()
    if number is None and is_write and _limits_file_size():
        number = errno.EFBIG
    if number not in _FIXES:
        return None
    if number == errno.ENOSPC and space and space.f_files and not space.f_favail:
        return "No space left on device, which has no inodes for more files; remove files"
    return f"{os.strerror(number)}; {_FIXES[number]}"


def _space(path: Path) -> os.statvfs_result | None:
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return os.statvfs(folder)
    return None


def _limits_file_size() -> bool:
    import resource  # missing on Windows

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def check_space(path: Path, size: int, *, error: type[SeqparError] = SeqparError) -> None:
    """Raise an error, before any work, if the disk of an output has not enough free space.

    Args:
        path: The file or folder to write. It may be missing.
        size: The expected size in bytes.
        error: The exception type to raise. Default: SeqparError.
    """
    space = _space(path)
    if space and (free := space.f_bavail * space.f_frsize) < size:
        raise error(
            f"{path} must have {size / 1e6:,.1f} MB of free space, got {free / 1e6:,.1f} MB; free some space, or "
            "choose another disk"
        )


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for temporary files. It is removed at the end of the block. Raises SeqparError."""
    try:
        folder = tempfile.mkdtemp(prefix="seqpar-")
    except OSError as error:
        raise SeqparError(
            f"the folder for temporary files cannot be written: {error.strerror}; set TMPDIR to another folder"
        ) from None
    try:
        yield Path(folder)
    except OSError as error:
        if (why := why_not_written(error, Path(folder))) is None:
            raise
        raise SeqparError(f"{folder} cannot be written: {why}, or set TMPDIR to another folder") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary file beside `path`. It replaces `path` if the block succeeds, and is removed if it fails.

    Args:
        path: The file to write.
        mode: Permissions of the file. Default: as the umask of the process says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = _new_beside(path, private=mode is not None)
    try:
        yield staging
        if mode is not None:
            staging.chmod(mode)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def _new_beside(path: Path, *, private: bool) -> Path:
    """Make an empty file `.NAME.XXXXXXXX` beside a path. If it is not private, the system applies the umask.

    tempfile makes private files only, and os.umask, to widen them, would change the umask of all threads.
    """
    while True:
        made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
            return made


def write_whole(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file atomically, and make its parent folders. `mode` as of `replacing`. Raises SeqparError."""
    try:
        with replacing(path, mode=mode) as staging:
            staging.write_bytes(content)
    except OSError as error:
        raise SeqparError(f"{path} cannot be written: {why_not_written(error, path) or error.strerror}") from None


def check_writable(*paths: Path | None, folder: bool = False) -> None:
    """Raise SeqparError, before any work, if an output cannot be written.

    Args:
        paths: The outputs. None, an option that was not given, is skipped. Missing folders are not made.
        folder: Whether the paths are folders to write into. Default: False, they are files.
    """
    for path in paths:
        if path is None:
            continue
        nearest = path if folder else path.parent
        try:
            if not folder and path.is_dir():
                raise SeqparError(f"{path} must be a file, got a folder; name a file in it")
            while not nearest.exists():
                nearest = nearest.parent
            tempfile.TemporaryFile(dir=nearest).close()
        except OSError as error:
            raise SeqparError(f"{path} cannot be written: {why_not_written(error, path) or error.strerror}") from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def new_folder(
    out: Path, *, marker: str, overwrite: bool, error: type[SeqparError], beside: Path | None = None
) -> Iterator[Path]:
    """Yield a folder to write into. It becomes `out` if the block succeeds, and is removed if it fails.

    The new folder is a hidden sibling of `out`, so that the last step is one rename. Leftovers of killed processes are
    removed first.

    Args:
        out: The final folder.
        marker: A file that identifies folders of this kind. Only a folder that has it may be overwritten.
        overwrite: Replace a folder at `out`.
        error: The exception type to raise if `out` exists and may not be replaced, or cannot be written.
        beside: Folder on the same disk whose sibling the new folder is, if it must not be seen beside `out`. Default:
            `out`.
    """
    out = Path(os.path.abspath(out))
    beside = out if beside is None else Path(os.path.abspath(beside))
    with _in_one_line(out, error):
        _check_replaceable(out, marker, overwrite, error)
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(beside)
        made = beside.with_name(f".{beside.name}.new-{secrets.token_hex(4)}")
        made.mkdir()  # not by tempfile, which ignores the umask
        with _locked(made):
            # Rename only once locked: other processes remove unlocked folders with this prefix.
            staging = made.rename(beside.with_name(f"{_partial_prefix(beside)}{made.name[-8:]}"))
            try:
                with _in_one_line(out, error):  # here too: once the folder is removed, the disk is not full
                    yield staging
                _check_replaceable(out, marker, overwrite, error)  # again: the block may take minutes
                _put_in_place(staging, out)
            finally:
                shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _in_one_line(out: Path, error: type[SeqparError]) -> Iterator[None]:
    """Turn a failed write, which libraries report in ways of their own, into one line. Other errors pass."""
    try:
        yield
    except SeqparError:
        raise
    except Exception as problem:
        if (why := why_not_written(problem, out.parent)) is None:
            raise
        _log.debug("%s cannot be written", out, exc_info=problem)
        raise error(f"{out} cannot be written: {why}") from None


def _check_replaceable(out: Path, marker: str, overwrite: bool, error: type[SeqparError]) -> None:
    if out.exists() and not overwrite:
        raise error(f"{out} already exists; choose another name or pass --overwrite")
    if out.exists() and not (out / marker).is_file():
        raise error(f"{out} exists without {marker}, so it is not overwritten; choose another name")


def _put_in_place(staging: Path, out: Path) -> None:
    """Rename a folder to `out`. A folder there is removed, or restored if the rename fails."""
    if not out.exists():
        staging.rename(out)
        return
    replaced = Path(tempfile.mkdtemp(prefix=f".{out.name}.replaced-", dir=out.parent))
    try:
        out.rename(replaced / out.name)
        staging.rename(out)
    finally:
        if not out.exists():
            (replaced / out.name).rename(out)
        shutil.rmtree(replaced, ignore_errors=True)


def _partial_prefix(out: Path) -> str:
    return f".{out.name}.partial-"


def _remove_leftovers(out: Path) -> None:
    """Remove partial folders that no running process has locked. On a file system without locks all of them stay."""
    for folder in out.parent.iterdir():
        if folder.name.startswith(_partial_prefix(out)) and folder.is_dir():
            with contextlib.suppress(OSError), _locked(folder) as locked:
                if locked:
                    shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or the process ends. Yields False if it is already locked, or cannot be."""
    import fcntl  # missing on Windows, which can open bundles but not write them

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError:
            locked = False
        yield locked
    finally:
        os.close(handle)


def finite(value: Any) -> Any:
    """Return a value for JSON: NaN and infinity, which JSON does not have, become None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
