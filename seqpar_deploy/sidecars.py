"""Files made after export that belong to one bundle: `tuned.json`, `verified.json`, `calibration.json`, ...

    BUNDLE/<name>   or, if the bundle's folder cannot be written,   $XDG_CACHE_HOME/seqpar-deploy/<digest>/<name>

They are never in the manifest, so writing one changes no digest. Each states what it was made for; a reader ignores
one that does not fit, with one log line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import write_whole


def read_sidecar(bundle: Bundle, name: str) -> bytes | None:
    """The content of a sidecar: the one in the bundle's folder, else the one in the user's cache folder, else None."""
    return next((content for _, content in sidecars(bundle, name)), None)


def sidecars(bundle: Bundle, name: str) -> Iterator[tuple[Path, bytes]]:
    """Every readable sidecar of this name, path and content: the bundle folder's, then the user's cache folder's.

    A bundle on a shared read-only disk may carry one that was made on another machine, which hides none in the cache.
    """
    for path in _places(bundle, name):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        yield path, content


def write_sidecar(bundle: Bundle, name: str, content: bytes) -> Path:
    """Write a sidecar, whole or not at all, into the bundle's folder, or into the user's cache folder if that fails.

    Returns:
        The path written.

    Raises:
        SeqparError: neither folder can be written.
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


def _places(bundle: Bundle, name: str) -> list[Path]:
    cache = _cache_dir()
    return [bundle.path / name, *([cache / bundle.digest / name] if cache else [])]


def _cache_dir() -> Path | None:
    """`seqpar-deploy` in the user's cache folder; None for a user without a home."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(configured):  # the XDG specification ignores relative paths
        return Path(configured) / "seqpar-deploy"
    try:
        return Path.home() / ".cache" / "seqpar-deploy"
    except RuntimeError:
        return None
