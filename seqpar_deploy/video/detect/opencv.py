"""OpenCV, when it is needed."""

from __future__ import annotations

from typing import Any

from seqpar_deploy.errors import BackendUnavailableError


def import_cv2() -> Any:
    """The module. Raises BackendUnavailableError that says what to install."""
    try:
        import cv2
    except ImportError:
        raise BackendUnavailableError(
            "finding people needs OpenCV, which is not installed; pip install 'seqpar-deploy[video]'"
        ) from None
    return cv2
