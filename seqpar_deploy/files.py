"""Write files and folders atomically: a reader sees the old one or the new one, never a partial one."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import SeqparError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`. It replaces `path` if the block succeeds, and is removed if it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    staging = Path(name)
    try:
        yield staging
        staging.chmod(0o644)  # mkstemp makes it private
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, and make its parent folders. Raises SeqparError."""
    try:
        with replacing(path) as staging:
            staging.write_bytes(content)
    except OSError as error:
        raise SeqparError(f"{path} cannot be written: {error.strerror}") from None


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
            raise SeqparError(f"{path} cannot be written: {error.strerror}") from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def new_folder(out: Path, *, marker: str, overwrite: bool, error: type[SeqparError]) -> Iterator[Path]:
    """Yield a folder to write into. It becomes `out` if the block succeeds, and is removed if it fails.

    The new folder is a hidden sibling of `out`, so that the last step is one rename. Leftovers of killed processes are
    removed first.

    Args:
        out: The final folder.
        marker: A file that identifies folders of this kind. Only a folder that has it may be overwritten.
        overwrite: Replace a folder at `out`.
        error: The exception type to raise if `out` exists and may not be replaced, or cannot be written.
    """
    out = Path(os.path.abspath(out))
    _check_replaceable(out, marker, overwrite, error)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
    except OSError as problem:
        raise error(f"{out} cannot be written: {problem.strerror}; choose another folder") from None
    with _locked(made):
        # Rename only once locked: other processes remove unlocked folders with this prefix.
        staging = made.rename(out.with_name(f"{_partial_prefix(out)}{made.name[-8:]}"))
        try:
            yield staging
            staging.chmod(0o755)  # mkdtemp makes it private
            _check_replaceable(out, marker, overwrite, error)  # again: the block may take minutes
            _put_in_place(staging, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


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
