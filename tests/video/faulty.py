"""A container of PyAV that raises an exception in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import av

END = -1


class Faulty:
    """Raises `error` in place of packet number `after`, or at the END, and is the container in everything else."""

    def __init__(self, container: Any, error: Exception, after: int) -> None:
        self._container, self._error, self._after = container, error, after

    def demux(self, *streams: Any) -> Iterator[Any]:
        for number, packet in enumerate(self._container.demux(*streams)):
            if number == self._after:
                raise self._error
            yield packet
        if self._after == END:
            raise self._error

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._container.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)


def opener(errors: Iterator[Exception | None], after: int) -> Callable[..., Any]:
    """Return a substitute for `av.open`: each container raises the next error, unless that is None."""
    opens = av.open

    def open_next(*arguments: Any, **options: Any) -> Any:
        container, error = opens(*arguments, **options), next(errors)
        return container if error is None else Faulty(container, error, after)

    return open_next
