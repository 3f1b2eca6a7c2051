"""Loss and speed of the steps since the last row of the log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Meter:
    """Loss and speed since its creation."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._losses: list[float] = []
        self._images = 0
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting_time(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._waited += time.perf_counter() - start

    def add(self, loss: float, images: int) -> None:
        self._losses.append(loss)
        self._images += images

    @property
    def loss(self) -> float:
        return sum(self._losses) / len(self._losses)

    @property
    def images_per_second(self) -> float:
        return self._images / (time.perf_counter() - self._start)

    @property
    def waiting(self) -> float:
        return self._waited / (time.perf_counter() - self._start)
