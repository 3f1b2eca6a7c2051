"""Recognizers that several elements of one process share, because each holds the weights of its bundle."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

from seqpar_deploy.backends import BackendName
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.recognizer import Recognizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleRequest:
    """A bundle and the options to open it with. Equal requests share a Recognizer.

    Attributes:
        bundle: The bundle's folder.
        backend: As of `Recognizer.from_bundle`. Default: "auto".
        thresholds: File of thresholds. Default: those of the bundle's calibration.
        threads: CPU threads per inference. Default: the backend's choice.
    """

    bundle: Path
    backend: BackendName = "auto"
    thresholds: Path | None = None
    threads: int | None = None


class _Shared:
    """A Recognizer, or the place of one that is being opened."""

    def __init__(self) -> None:
        self.opening = threading.Lock()
        self.recognizer: AnyRecognizer | None = None
        self.users = 0


class Lease:
    """The use of a shared Recognizer. The last `close` closes it."""

    def __init__(self, key: BundleRequest, shared: _Shared, recognizer: AnyRecognizer) -> None:
        self._key, self._shared = key, shared
        self.recognizer = recognizer
        self._closed = False

    def close(self) -> None:
        """Give the Recognizer back. Safe to call twice."""
        if not self._closed:
            self._closed = True
            _give_back(self._key, self._shared)


_lock = threading.Lock()
_shared: dict[BundleRequest, _Shared] = {}


def open_bundle(request: BundleRequest) -> AnyRecognizer:
    """Open a Recognizer of its own for a request."""
    return Recognizer.from_bundle(
        request.bundle, backend=request.backend, thresholds=request.thresholds, threads=request.threads
    )


def lease(request: BundleRequest, open_it: Callable[[BundleRequest], AnyRecognizer] | None = None) -> Lease:
    """Return the Recognizer of a request, which is opened if nobody uses an equal one.

    Args:
        request: Bundle and options. Paths are resolved first, so that links and names of one folder are equal.
        open_it: Opens it. Default: `open_bundle`.

    Raises:
        SeqparError: As `Recognizer.from_bundle`.
    """
    thresholds = request.thresholds and request.thresholds.resolve()
    key = dataclasses.replace(request, bundle=request.bundle.resolve(), thresholds=thresholds)
    with _lock:
        shared = _shared.setdefault(key, _Shared())
        shared.users += 1
    try:
        with shared.opening:  # others that want the same wait, those of other bundles do not
            if shared.recognizer is None:
                shared.recognizer = (open_it or open_bundle)(request)
            return Lease(key, shared, shared.recognizer)
    except BaseException:
        _give_back(key, shared)
        raise


def in_use() -> int:
    """Return the number of Recognizers that are open or being opened."""
    with _lock:
        return len(_shared)


def _give_back(key: BundleRequest, shared: _Shared) -> None:
    with _lock:
        shared.users -= 1
        if shared.users:
            return
        del _shared[key]
    with shared.opening:
        if shared.recognizer is not None:
            shared.recognizer.close()
