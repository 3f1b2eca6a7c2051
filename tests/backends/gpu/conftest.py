from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.device import Device, make_device


@pytest.fixture
def device(fp16_bundle_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    """`device(rtx=..., batches=..., identity={...}, **gpu)`. Nothing may happen on it that hardware forbids."""
    made: list[Device] = []

    def make(**options: Any) -> Device:
        made.append(make_device(fp16_bundle_dir, tmp_path / "bundle", **options))
        return made[-1]

    yield make
    for one in made:
        assert one.cuda.check() == []
