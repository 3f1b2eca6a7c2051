from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.device import Device, make_device

MakeDevice = Callable[..., Device]


@pytest.fixture(scope="session")
def trimmed_bundle_dir(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A tiny FP16 bundle whose model reads trimmed crops. Copy it before changing it."""
    from fakes.bundles import export_trimmed

    return made_once("trimmed-fp16", export_trimmed) / "trimmed"


def _devices(bundle_dir: Path, path: Path) -> Iterator[MakeDevice]:
    """`device(rtx=..., batches=..., identity={...}, **gpu)`. Nothing may happen on it that hardware forbids."""
    made: list[Device] = []

    def make(**options: Any) -> Device:
        made.append(make_device(bundle_dir, path, **options))
        return made[-1]

    yield make
    for one in made:
        assert one.cuda.check() == []


@pytest.fixture
def device(fp16_bundle_dir: Path, tmp_path: Path) -> Iterator[MakeDevice]:
    """A device for crops that are not trimmed."""
    yield from _devices(fp16_bundle_dir, tmp_path / "bundle")


@pytest.fixture
def trimmed_device(trimmed_bundle_dir: Path, tmp_path: Path) -> Iterator[MakeDevice]:
    """A device for trimmed crops."""
    yield from _devices(trimmed_bundle_dir, tmp_path / "trimmed")
