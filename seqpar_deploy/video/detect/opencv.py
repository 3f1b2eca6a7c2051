"""OpenCV, when it is needed."""

from __future__ import annotations

from typing import Any

from seqpar_deploy.errors import BackendUnavailableError


def import_cv2() -> Any:
    """The module. Raises BackendUnavailableError that says what to install."""
    try:
        import cv2
    except ImportError as error:
        raise BackendUnavailableError(
            f"finding people needs OpenCV, which cannot be loaded: {error}; pip install 'seqpar-deploy[video]', and "
            "apt-get install libgl1 where libGL.so.1 is missing"
        ) from None
    return cv2
