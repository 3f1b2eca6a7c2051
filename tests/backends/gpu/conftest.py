from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.device import Device, make_device


@pytest.fixture
def device(fp16_bundle_dir: Path, tmp_path: Path) -> Callable[..., Device]:
    """`device(rtx=..., batches=..., identity={...}, **gpu)`."""
    return functools.partial(make_device, fp16_bundle_dir, tmp_path / "bundle")
