from __future__ import annotations

from pathlib import Path

import pytest
from video.gstreamer import gst


@pytest.fixture
def element_runs() -> None:
    """Skip the test where GStreamer does not load the element."""
    if why := gst.lacking():
        pytest.skip(why)


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry.bin"
