"""The first signal asks to stop, the second interrupts, and nothing stays behind."""

from __future__ import annotations

import signal
import threading

import pytest

from seqpar_deploy.interruption import stop_on_signal


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_interrupts(first: signal.Signals, second: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stop = threading.Event()
    with stop_on_signal(stop.set) as received:
        assert not received
        signal.raise_signal(first)
        assert received == [first]
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert received == [first, second]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_stop_is_requested_once() -> None:
    calls: list[int] = []
    with stop_on_signal(lambda: calls.append(1)) as received:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
    assert (len(calls), len(received)) == (1, 3)


def test_another_thread_leaves_the_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with stop_on_signal() as received:
            seen.extend([received, signal.getsignal(signal.SIGINT)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[], before]
