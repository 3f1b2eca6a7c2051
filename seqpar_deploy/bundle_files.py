"""Check the files of a bundle, and give runtimes plain files if some of them are links.

Links are followed: a bundle may lie in the cache of Hugging Face, under git-annex, or on two disks. A file that leaves
the bundle's folder through a link counts only if its SHA-256 fits, even if other hashes are not checked. Names that
leave the folder by themselves (`../x`, `/x`) are refused.

ONNX Runtime and OpenVINO refuse weights that are a link out of the graph's folder. For them, a bundle with links is
gathered in a temporary folder: as hard links, which take no space, or as copies on another file system.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from seqpar_deploy.errors import BundleError, BundleFormatError, BundleIntegrityError
from seqpar_deploy.files import sha256_of
from seqpar_deploy.onnx_file import external_data_locations

_COPY_AGAIN = "copy the bundle again, or export the bundle again with seqpar-export"
_LARGEST_MANIFEST = 64 << 20  # bytes; a manifest has about 10 kB
_GATHERED = "seqpar-deploy-graphs-"  # prefix of temporary folders; unlocked ones of this prefix are removed
_POINTERS = {  # what version control keeps in place of a large file, and the command that brings the file
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"/annex/objects/": "a git-annex pointer; run git annex get .",
}


def read_manifest(file: Path) -> bytes:
    """Return the content of a manifest. Raises BundleFormatError."""
    again = "export the bundle again with seqpar-export"
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_MANIFEST:
            got = f"{found.st_size} bytes" if stat.S_ISREG(found.st_mode) else _kind(found.st_mode)
            raise BundleFormatError(f"{file} must be a file of JSON, got {got}; {again}")
        content = file.read_bytes()
    except FileNotFoundError:
        if file.is_symlink():
            raise BundleFormatError(_broken_link(file)) from None
        raise BundleFormatError(
            f"{file.parent} must be a bundle folder, got one without {file.name}; {again}"
        ) from None
    except OSError as error:
        raise BundleFormatError(f"{file} cannot be read: {error.strerror}; {again}") from None
    if pointer := _pointer(content):
        raise BundleFormatError(f"{file} must be a file of JSON, got {pointer}")
    return content


def check_files(
    folder: Path, files: Mapping[str, Mapping[str, Any]], *, source: Path, graphs: Iterable[str], verify: bool
) -> None:
    """Check the listed files of a bundle. Raises BundleIntegrityError.

    Args:
        folder: The bundle's folder.
        files: Size and SHA-256 by name.
        source: The manifest that lists them, for messages.
        graphs: Names of ONNX graphs, whose weights must be listed files too.
        verify: Check every SHA-256. Files that leave the folder through a link are always checked.
    """
    for name, entry in files.items():
        if not _stays_inside(name):
            raise BundleIntegrityError(f"{source} lists {name!r}, which is outside the bundle; do not use this bundle")
        _check_file(folder / name, entry, verify=verify or not _is_inside(folder, name))
    for graph in graphs:
        for location in external_data_locations(folder / graph) if graph in files else ():
            if location not in files:
                raise BundleIntegrityError(
                    f"{folder / graph} reads weights from {location!r}, which is not in the manifest; "
                    "do not use this bundle"
                )


def _check_file(file: Path, entry: Mapping[str, Any], *, verify: bool) -> None:
    try:
        found = file.stat()
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        if file.is_symlink():
            raise BundleIntegrityError(_broken_link(file)) from None
        raise BundleIntegrityError(f"{file} is in the manifest but missing; {_COPY_AGAIN}") from None
    if not stat.S_ISREG(found.st_mode):
        raise BundleIntegrityError(f"{file} must be a file, got {_kind(found.st_mode)}; {_COPY_AGAIN}")
    try:
        if found.st_size != entry["bytes"]:
            with file.open("rb") as opened:
                pointer = _pointer(opened.read(64))
            again = "" if pointer else f"; {_COPY_AGAIN}"
            raise BundleIntegrityError(
                f"{file} must have {entry['bytes']} bytes, got {pointer or found.st_size}{again}"
            )
        if verify and (digest := sha256_of(file)) != entry["sha256"]:
            raise BundleIntegrityError(
                f"{file} must have sha256 {entry['sha256'][:12]}.., got {digest[:12]}..; {_COPY_AGAIN}"
            )
    except OSError as error:
        raise BundleIntegrityError(f"{file} cannot be read: {error.strerror}; {_COPY_AGAIN}") from None


def plain_folder(folder: Path, names: Iterable[str], *, cache: Path | None, owner: object) -> Path:
    """Return a folder in UTF-8 that has these files without links: the bundle's own, or a temporary one.

    Args:
        folder: The bundle's folder.
        names: Names of checked files.
        cache: Folder for the temporary one. Default: the system's, which is also used if `cache` cannot be written.
        owner: The temporary folder is removed with this object, at the latest when the process ends.

    Raises:
        BundleError: The files can be neither linked nor copied.
    """
    names, root = list(names), os.path.realpath(folder)
    plain = all(os.path.realpath(folder / name) == os.path.join(root, *PurePosixPath(name).parts) for name in names)
    if plain and "\\udc" not in ascii(str(folder)):  # ONNX Runtime takes no path that is not UTF-8
        return folder
    why = ""
    for parent in (*([cache] if cache else []), Path(tempfile.gettempdir())):
        with contextlib.ExitStack() as undo:
            try:
                parent.mkdir(parents=True, exist_ok=True)
                made = Path(tempfile.mkdtemp(prefix=_GATHERED, dir=parent))
                undo.callback(shutil.rmtree, made, ignore_errors=True)
                undo.enter_context(_locked(made))
                _remove_leftovers(parent)
                for name in names:
                    (made / name).parent.mkdir(parents=True, exist_ok=True)
                    link_or_copy(os.path.realpath(folder / name), made / name)
            except OSError as error:
                why = f"{parent}: {error.strerror}"
                continue
            weakref.finalize(owner, undo.pop_all().close)
            return made
    raise BundleError(
        f"files of {folder} are links, which must be gathered in a temporary folder, and that cannot be written "
        f"({why}); free some space, or copy the bundle with cp -rL"
    )


def cache_dir() -> Path | None:
    """Return `seqpar-deploy` in the user's cache folder, or None for a user without a home folder."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):  # the XDG specification ignores relative paths
        return Path(configured) / "seqpar-deploy"
    try:
        return Path.home() / ".cache" / "seqpar-deploy"
    except RuntimeError:
        return None


def link_or_copy(real: str, to: Path) -> None:
    """Make `to` a hard link to a file, or a copy of it on another disk. `real` must not be a link itself."""
    try:
        os.link(real, to)
    except OSError:  # another file system, or one without hard links, or a file of another user
        shutil.copyfile(real, to)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder until the block or the process ends. Raises BlockingIOError if another process has locked it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_leftovers(parent: Path) -> None:
    """Remove the folders of killed processes."""
    for folder in parent.glob(f"{_GATHERED}*"):
        with contextlib.suppress(OSError), _locked(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_inside(folder: Path, name: str) -> bool:
    """Return whether a file lies in the folder after all links are followed."""
    return Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))


def _stays_inside(name: str) -> bool:
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in name and ":" not in name


def _broken_link(file: Path) -> str:
    target = os.readlink(file)
    fix = "run git annex get ." if ".git/annex/" in target else "copy or download the bundle again"
    return f"{file} is a link to {target}, which cannot be opened; {fix}"


def _pointer(content: bytes) -> str | None:
    return next((name for start, name in _POINTERS.items() if content.startswith(start)), None)


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
