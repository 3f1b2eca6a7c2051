"""Let long work end cleanly when a person or a service manager stops it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C; docker stop, systemd, kill; a closed terminal

Handler = Callable[[int, FrameType | None], object]


def handle_stop(handler: Handler) -> dict[int, Any]:
    """Call `handler` at each stop signal, and return the previous handlers, by signal.

    SIGHUP is left alone if it is ignored, as under nohup. It is dropped after another stop signal: a terminal that is
    closed sends it twice, and systemd may send it after SIGTERM, but nobody asked twice.
    """
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and received:
            return
        received.append(number)
        handler(number, frame)

    signals = [each for each in STOP_SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    return {number: signal.signal(number, handle) for number in signals}


def _do_nothing() -> None:
    pass


@contextlib.contextmanager
def stop_on_signal(request_stop: Callable[[], None] = _do_nothing) -> Iterator[list[int]]:
    """Defer the first SIGINT, SIGTERM or SIGHUP, so that work can finish its current step.

    The first signal is recorded and calls `request_stop`. A second SIGINT or SIGTERM raises KeyboardInterrupt at once.
    SIGHUP is dropped if it comes second, and left alone if the process ignores it, as under nohup. The previous
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

    previous = handle_stop(handle)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by C code
