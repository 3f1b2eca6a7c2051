"""The first signal asks to stop, the second interrupts, and nothing stays behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from seqpar_deploy.interruption import STOP_SIGNALS, stop_on_signal


@pytest.fixture(autouse=True)
def _hangup_ends_a_process() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also if the tests run under nohup
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_interrupts(first: signal.Signals, second: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    stop = threading.Event()
    with stop_on_signal(stop.set) as received:
        assert not received
        signal.raise_signal(first)
        assert received == [first]
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert received == [first, second]
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
def test_a_hangup_after_another_signal_is_dropped(first: signal.Signals) -> None:
    with stop_on_signal() as received:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGHUP)  # a terminal that is closed sends two, systemd one after SIGTERM
        assert received == [first]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_on_signal() as received:
            signal.raise_signal(signal.SIGHUP)
            assert received == []
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
