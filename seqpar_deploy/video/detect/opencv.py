"""Imports OpenCV on first use."""

from __future__ import annotations

import contextlib
from typing import Any

from seqpar_deploy.errors import BackendUnavailableError
from seqpar_deploy.machine import thread_limit


def import_cv2(purpose: str = "detecting people") -> Any:
    """Return the module. Raises BackendUnavailableError that names the package to install."""
    try:
        import cv2
    except ImportError as error:
        raise BackendUnavailableError(
            f"{purpose} needs OpenCV, which cannot be loaded: {error}; pip install 'seqpar-deploy[video]', and "
            "apt-get install libgl1 if libGL.so.1 is missing"
        ) from None
    if (limit := thread_limit()) is not None:
        cv2.setNumThreads(min(limit, cv2.getNumThreads()))
    return cv2


def limit_threads(threads: int) -> None:
    """Limit the CPU threads of OpenCV in this process, if it is installed."""
    with contextlib.suppress(BackendUnavailableError):  # external detections do not need it
        import_cv2().setNumThreads(threads)
