"""Schedules of threads find deadlocks and races, and find them again with the same seed."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from fakes.schedule import CooperativeThreading, Schedule, scheduled


def threading_of(schedule: Schedule) -> Any:
    return CooperativeThreading(schedule)


def run(seed: int, make: Callable[[Schedule, Any], list[Callable[[], object]]], **options: Any) -> Schedule:
    schedule = Schedule(seed, **options)
    with scheduled(schedule, "no module"):
        schedule.run(*make(schedule, threading_of(schedule)))
    return schedule


def failing(seeds: range, make: Callable[..., Any], **options: Any) -> dict[int, list[str]]:
    found = {seed: run(seed, make, **options).failures for seed in seeds}
    return {seed: failures for seed, failures in found.items() if failures}


def test_a_race_is_found_and_found_again() -> None:
    def make(locked: bool) -> Callable[..., list[Callable[[], object]]]:
        def threads(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
            counter, lock = types.SimpleNamespace(value=0, ended=0), threading.Lock()

            def count() -> None:
                for _ in range(3):
                    if locked:
                        lock.acquire()
                    before = counter.value
                    schedule.step()
                    counter.value = before + 1
                    if locked:
                        lock.release()
                counter.ended += 1
                assert counter.ended < 2 or counter.value == 6, f"counted {counter.value}"

            return [count, count]

        return threads

    found = failing(range(20), make(locked=False))
    assert len(found) > 5
    assert found == failing(range(20), make(locked=False))
    assert failing(range(20), make(locked=True)) == {}


def test_deadlocks_name_who_holds_what() -> None:
    def crossing(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
        first, second = threading.Lock(), threading.RLock()

        def nest(outer: Any, inner: Any) -> None:
            with outer, inner:
                pass

        return [lambda: nest(first, second), lambda: nest(second, first)]

    found = failing(range(20), crossing)
    assert 0 < len(found) < 20
    (text,) = next(iter(found.values()))
    for part in ("deadlock", "thread 0 holds", "thread 1 holds", "thread 0 waits", "thread 1 waits"):
        assert part in text

    def twice(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
        lock = threading.Lock()
        return [lambda: lock.acquire() and lock.acquire(), lambda: None]

    assert len(failing(range(5), twice)) == 5


def test_garbage_is_collected_while_locks_are_held() -> None:
    """A finalizer that takes a lock which its own thread holds never ends."""

    class Thing:
        itself: Any

    def make(reentrant: bool) -> Callable[..., list[Callable[[], object]]]:
        def threads(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
            lock = threading.RLock() if reentrant else threading.Lock()

            def give_back() -> None:
                with lock:
                    pass

            def work() -> None:
                for _ in range(4):
                    thing = Thing()
                    thing.itself = thing
                    weakref.finalize(thing, give_back)
                    del thing
                    with lock:
                        schedule.step()

            return [work, work]

        return threads

    found = failing(range(20), make(reentrant=False), collect=0.1)
    assert len(found) > 5
    assert all("deadlock" in failures[0] for failures in found.values())
    assert failing(range(20), make(reentrant=True), collect=0.1) == {}


def test_conditions_and_events_pass_the_baton() -> None:
    def make(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
        condition, ready, box = threading.Condition(), threading.Event(), []

        def take() -> None:
            assert ready.wait()
            with condition:
                assert condition.wait_for(lambda: bool(box), timeout=None)
                assert box.pop() == 1

        def give() -> None:
            ready.set()
            with condition:
                box.append(1)
                condition.notify_all()

        return [take, give]

    assert failing(range(30), make) == {}


def test_a_time_limit_passes_when_nobody_else_can_go_on() -> None:
    def make(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
        lock, event = threading.Lock(), threading.Event()

        def wait() -> None:
            assert not event.wait(timeout=1)
            assert lock.acquire()
            assert not lock.acquire(timeout=1)
            assert not lock.acquire(blocking=False)

        return [wait]

    assert failing(range(3), make) == {}

    def forever(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
        return [threading.Event().wait, lambda: None]

    assert all("deadlock" in failures[0] for failures in failing(range(3), forever).values())
    assert len(failing(range(3), forever)) == 3


def test_a_schedule_ends() -> None:
    def make(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
        def spin() -> None:
            while True:
                schedule.step()

        return [spin, lambda: None]

    (text,) = run(0, make, most_steps=100).failures
    assert "100 steps" in text


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_thread_or_a_finalizer_raises_is_a_failure(number: int) -> None:
    class Thing:
        pass

    def make(schedule: Schedule, threading: Any) -> list[Callable[[], object]]:
        def fail() -> None:
            raise ValueError("wrong")

        def drop() -> None:
            thing = Thing()
            weakref.finalize(thing, fail)

        return [[fail, drop][number]]

    (text,) = run(0, make).failures
    assert "ValueError: wrong" in text
