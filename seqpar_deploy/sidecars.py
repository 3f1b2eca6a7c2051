"""Read and write sidecars, files made after the export of a bundle: `tuned.json`, `verified.json`, `calibration.json`.

    BUNDLE/<name>   or, if the bundle's folder cannot be written,   $XDG_CACHE_HOME/seqpar-deploy/<digest>/<name>

They are never in the manifest, so writing one does not change the digest. Each records the bundle, machine or data it
was made for. A reader ignores one that does not match, and logs one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.bundle_files import cache_dir
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import check_writable, write_whole


def read_sidecar(bundle: Bundle, name: str) -> bytes | None:
    """Return the content of a sidecar, from the bundle's folder or else the user's cache folder, or None."""
    return next((content for _, content in sidecars(bundle, name)), None)


def sidecars(bundle: Bundle, name: str) -> Iterator[tuple[Path, bytes]]:
    """Yield (path, content) of every readable sidecar of this name: the bundle folder's, then the user cache's.

    Both are yielded, since a bundle on a shared read-only disk may have one that was made on another machine.
    """
    for path in _places(bundle, name):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        yield path, content


def write_sidecar(bundle: Bundle, name: str, content: bytes) -> Path:
    """Write a sidecar atomically into the bundle's folder, or into the user's cache folder if that fails.

    Returns:
        The path of the file.

    Raises:
        SeqparError: Neither folder can be written.
    """
    problems = []
    for path in _places(bundle, name):
        try:
            write_whole(path, content)
        except SeqparError as error:
            problems.append(str(error))
            continue
        return path
    raise SeqparError("; ".join(problems))


def check_sidecar_writable(bundle: Bundle, name: str) -> None:
    """Raise SeqparError, before any work, if `write_sidecar` would."""
    problems = []
    for path in _places(bundle, name):
        try:
            return check_writable(path)
        except SeqparError as error:
            problems.append(str(error))
    raise SeqparError("; ".join(problems))


def _places(bundle: Bundle, name: str) -> list[Path]:
    cache = cache_dir()
    return [bundle.path / name, *([cache / bundle.digest / name] if cache else [])]
