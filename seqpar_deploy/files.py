"""Writing files and folders so that a reader sees the old one or the new one, never half of one."""

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
    """A file to write, beside `path`, which takes its place when the block ends well and vanishes when it does not."""
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
    """Write a file, whole or not at all, and the folders it lies in. Raises SeqparError."""
    try:
        with replacing(path) as staging:
            staging.write_bytes(content)
    except OSError as error:
        raise SeqparError(f"{path} cannot be written: {error.strerror}") from None


def check_writable(*paths: Path | None, folder: bool = False) -> None:
    """Raise SeqparError, before any work, if an output cannot be written. None, an option not given, is skipped.

    With `folder` the paths are folders to write into. Folders that do not exist yet are not made.
    """
    for path in paths:
        if path is None:
            continue
        nearest = path if folder else path.parent
        try:
            if not folder and path.is_dir():
                raise SeqparError(f"{path} is a folder, not a file; name a file in it")
            while not nearest.exists():
                nearest = nearest.parent
            tempfile.TemporaryFile(dir=nearest).close()
        except OSError as error:
            raise SeqparError(f"{path} cannot be written: {error.strerror}") from None


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def new_folder(out: Path, *, marker: str, overwrite: bool, error: type[SeqparError]) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when the block ends well and vanishes when it does not.

    With `overwrite` it takes the place of a folder at `out` that holds a file named `marker`. The new folder is a
    hidden sibling of `out`, so that the last step is one rename. What a process that was killed left behind there is
    removed first. Raises `error`.
    """
    out = Path(os.path.abspath(out))
    _check_replaceable(out, marker, overwrite, error)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
    except OSError as problem:
        raise error(f"{out} cannot be written: {problem.strerror}; choose another place") from None
    with _locked(made):
        # Only now, locked, it takes a name that others look for leftovers under.
        staging = made.rename(out.with_name(f"{_partial_prefix(out)}{made.name[-8:]}"))
        try:
            yield staging
            staging.chmod(0o755)  # mkdtemp makes it private
            _check_replaceable(out, marker, overwrite, error)  # minutes have passed
            _put_in_place(staging, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _check_replaceable(out: Path, marker: str, overwrite: bool, error: type[SeqparError]) -> None:
    if out.exists() and not overwrite:
        raise error(f"{out} exists already; choose another name or pass --overwrite")
    if out.exists() and not (out / marker).is_file():
        raise error(f"{out} exists and holds no {marker}, it is not overwritten; choose another name")


def _put_in_place(staging: Path, out: Path) -> None:
    """Rename a folder to `out`. What lies there goes, but is put back if anything comes between."""
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
    """Remove partial folders that no living process holds locked. On a file system without locks they all stay."""
    for folder in out.parent.iterdir():
        if folder.name.startswith(_partial_prefix(out)) and folder.is_dir():
            with contextlib.suppress(OSError), _locked(folder) as locked:
                if locked:
                    shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock, which ends with the process if it is killed. False if it is held already, or has none."""
    import fcntl  # not on Windows, where bundles can be opened all the same

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
    """A value for JSON, which has no infinity and no NaN: they become None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
