"""Fixtures of servers that answer, and of slow ones that end with their test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import faults
from serving.kserve import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    faults.RELEASE.clear()
    with FakeServer() as server:
        yield server
        faults.RELEASE.set()
