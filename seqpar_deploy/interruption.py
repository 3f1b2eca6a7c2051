"""Let long work end cleanly when a person or a service manager stops it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C; docker stop, systemd, kill


def _do_nothing() -> None:
    pass


@contextlib.contextmanager
def stop_on_signal(request_stop: Callable[[], None] = _do_nothing) -> Iterator[list[int]]:
    """Defer the first SIGINT or SIGTERM, so that work can finish its current step.

    The first signal is recorded and calls `request_stop`. A second one raises KeyboardInterrupt at once. The previous
    handlers are restored at exit. In other threads than the main one, Python delivers no signals and this does nothing.

    Args:
        request_stop: Called in the main thread, between any two of its instructions. It must not wait for a lock that
            the main thread may hold: set an attribute, not a `threading.Event` that the main thread waits for.
            Default: a function that does nothing.

    Yields:
        The numbers of the signals received so far. Empty until the first.

    Examples:
        >>> with stop_on_signal() as received:
        ...     for step in steps:
        ...         step()
        ...         if received:
        ...             break
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        request_stop()

    previous = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by C code
