"""OpenCV, imported when it is needed."""

from __future__ import annotations

import contextlib
from typing import Any

from seqpar_deploy.errors import BackendUnavailableError
from seqpar_deploy.machine import thread_limit


def import_cv2() -> Any:
    """Return the module. Raises BackendUnavailableError that says what to install."""
    try:
        import cv2
    except ImportError as error:
        raise BackendUnavailableError(
            f"detecting people needs OpenCV, which cannot be loaded: {error}; pip install 'seqpar-deploy[video]', and "
            "apt-get install libgl1 where libGL.so.1 is missing"
        ) from None
    if (limit := thread_limit()) is not None:
        cv2.setNumThreads(min(limit, cv2.getNumThreads()))
    return cv2


def limit_threads(threads: int) -> None:
    """Let OpenCV use at most so many CPU threads in this process, if it is installed."""
    with contextlib.suppress(BackendUnavailableError):  # boxes from elsewhere do not need it
        import_cv2().setNumThreads(threads)
