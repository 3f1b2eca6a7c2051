"""Schedules of threads that a seed decides: real threads of which one runs at a time, and who goes on is drawn at each
yield point. The same seed gives the same schedule, so a race that was found once is found again.

Yield points are the calls of the stand-ins for CUDA and TensorRT, and whatever threads do with locks: the name
`threading` in the modules under test stands for `CooperativeThreading` meanwhile. At some of them garbage is collected,
so that finalizers run in any thread, with any lock held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_HANG = 60.0  # seconds without an end, after which threads are given up: a wait that no yield point knows of


class Deadlock(BaseException):
    """Nobody can go on, or the schedule does not end. Raised in every thread of the schedule."""


@dataclasses.dataclass(eq=False)
class Worker:
    number: int
    thread: threading.Thread | None = None
    baton: threading.Semaphore = dataclasses.field(default_factory=lambda: threading.Semaphore(0))
    waits_for: Callable[[], bool] | None = None  # it can go on once this holds
    why: str = ""
    has_limit: bool = False  # it waits with a time limit, which passes when nobody else can go on
    sleeps_until: int = 0  # a step of the schedule, before which others go on if they can
    done: bool = False

    @property
    def runnable(self) -> bool:
        return not self.done and (self.waits_for is None or self.waits_for())


class Schedule:
    """Runs functions in threads, one at a time."""

    def __init__(
        self, seed: int, *, switch: float = 0.3, collect: float = 0.02, sleep: float = 0.0, most_steps: int = 200_000
    ) -> None:
        """`switch`, `collect` and `sleep` are how probable it is that a thread hands over at a yield point, collects
        garbage, or stays there while others do a lot.
        """
        self._random = random.Random(seed)
        self._switch, self._collect, self._sleep, self._most_steps = switch, collect, sleep, most_steps
        self.linger_at: frozenset[str] = frozenset()  # yield points where threads often stay for long
        self._workers: list[Worker] = []
        self._current: Worker | None = None
        self._by_thread: dict[int, Worker] = {}
        self._ended = threading.Event()
        self.locks: list[CooperativeLock] = []
        self.steps = 0
        self.collections = 0
        self.failures: list[str] = []
        self._stopped = False

    # Threads

    def run(self, *functions: Callable[[], object]) -> None:
        """Run each function in a thread of its own until all have returned. What they raise is in `failures`."""
        self._workers = [Worker(number) for number in range(len(functions))]
        self._ended.clear()
        for worker, function in zip(self._workers, functions, strict=True):
            worker.thread = threading.Thread(target=self._work, args=(worker, function), daemon=True)
            worker.thread.start()
        self._hand_to(self._random.choice(self._workers))
        if not self._ended.wait(_HANG):
            self._fail(f"no end after {_HANG:.0f} s: " + "; ".join(self._where(worker) for worker in self._workers))
            return
        for worker in self._workers:
            assert worker.thread is not None
            worker.thread.join()

    def _work(self, worker: Worker, function: Callable[[], object]) -> None:
        self._by_thread[threading.get_ident()] = worker
        worker.baton.acquire()
        try:
            if not self._stopped:
                function()
        except Deadlock:
            pass
        except BaseException as error:
            self._fail(f"thread {worker.number} raised {type(error).__name__}: {error}")
        worker.done = True
        del self._by_thread[threading.get_ident()]
        following = self._choose()
        if following is not None:
            self._hand_to(following)
        elif all(other.done for other in self._workers):
            self._ended.set()
        else:
            self._deadlock()
            self._hand_to(next(other for other in self._workers if not other.done))

    def _hand_to(self, worker: Worker) -> None:
        self._current = worker
        worker.baton.release()

    def _choose(self) -> Worker | None:
        if self._stopped:
            return next((worker for worker in self._workers if not worker.done), None)
        runnable = [worker for worker in self._workers if worker.runnable]
        runnable = [worker for worker in runnable if worker.sleeps_until <= self.steps] or runnable
        if not runnable:
            runnable = [worker for worker in self._workers if not worker.done and worker.has_limit]
        return self._random.choice(runnable) if runnable else None

    def _where(self, worker: Worker) -> str:
        thread = worker.thread
        frame = sys._current_frames().get(thread.ident or 0) if thread is not None else None
        return f"thread {worker.number} at " + (f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "its end")

    def _fail(self, text: str) -> None:
        if text not in self.failures:
            self.failures.append(text)

    def _deadlock(self) -> None:
        holders = [f"thread {lock.owner.number} holds {lock.name}" for lock in self.locks if lock.owner is not None]
        waiters = [f"thread {w.number} waits for {w.why}" for w in self._workers if not w.done]
        self._stop("deadlock: " + ", ".join(waiters + holders))

    def _stop(self, text: str) -> None:
        self._fail(text)
        self._stopped = True

    # Yield points

    def me(self) -> Worker | None:
        """The worker that this thread is; None for threads that the schedule did not start."""
        return self._by_thread.get(threading.get_ident())

    def step(self, what: str = "") -> None:
        """A yield point: perhaps collect garbage, perhaps let another thread go on."""
        worker = self.me()
        if worker is None:
            return
        self._check(worker)
        if self._random.random() < self._collect:
            self.collections += 1
            gc.collect()
            self._check(worker)
        if self._random.random() < (0.3 if what in self.linger_at else self._sleep):
            worker.sleeps_until = self.steps + self._random.choice((10, 50, 300))
            self._let_others(worker)
        elif self._random.random() < self._switch:
            self._let_others(worker)

    def wait_until(self, holds: Callable[[], bool], why: str, *, limited: bool = False) -> bool:
        """Let others go on until this holds. False if a time limit passed first. Raises Deadlock."""
        worker = self.me()
        if worker is None:  # a thread outside the schedule, which runs while no other does
            if not holds() and not limited:
                raise Deadlock(f"nobody is left to release {why}")
            return holds()
        self._check(worker)
        if holds():
            return True
        worker.waits_for, worker.why, worker.has_limit = holds, why, limited
        try:
            self._let_others(worker)
        finally:
            worker.waits_for, worker.has_limit = None, False
        return holds()

    def _check(self, worker: Worker) -> None:
        self.steps += 1
        if self.steps > self._most_steps:
            self._stop(f"a schedule of more than {self._most_steps} steps")
        if self._stopped:
            raise Deadlock

    def _let_others(self, worker: Worker) -> None:
        following = self._choose()
        if following is None:
            self._deadlock()
            raise Deadlock
        if following is not worker:
            self._hand_to(following)
            worker.baton.acquire()
            self._check(worker)


class CooperativeLock:
    """`threading.Lock`, or with `reentrant` `threading.RLock`, of a schedule."""

    def __init__(self, schedule: Schedule, *, reentrant: bool) -> None:
        self._schedule, self._reentrant = schedule, reentrant
        self.owner: Any = None  # a Worker, or a thread outside the schedule
        self.depth = 0
        caller = sys._getframe(2)
        self.name = f"the lock of {caller.f_code.co_qualname if sys.version_info >= (3, 11) else caller.f_code.co_name}"
        schedule.locks.append(self)

    def _me(self) -> Any:
        return self._schedule.me() or _outside

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = self._me()
        self._schedule.step()
        if not (self._reentrant and self.owner is me):
            if self.owner is not None:
                if not blocking:
                    return False
                if not self._schedule.wait_until(lambda: self.owner is None, self.name, limited=timeout >= 0):
                    return False
            self.owner = me
        self.depth += 1
        try:
            self._schedule.step()  # garbage may be collected while it is held
        except Deadlock:
            self.release()
            raise
        return True

    def release(self) -> None:
        if self.owner is None or (self._reentrant and self.owner is not self._me()):
            raise RuntimeError("release of a lock that is not held")
        self.depth -= 1
        if self.depth == 0:
            self.owner = None

    def locked(self) -> bool:
        return self.owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
        if sys.exc_info()[0] is None:
            self._schedule.step()


class CooperativeCondition:
    def __init__(self, schedule: Schedule, lock: CooperativeLock | None = None) -> None:
        self._schedule = schedule
        self._lock = CooperativeLock(schedule, reentrant=True) if lock is None else lock
        self._waiting: list[list[bool]] = []
        self.acquire, self.release = self._lock.acquire, self._lock.release

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(*exception)

    def wait(self, timeout: float | None = None) -> bool:
        notified = [False]
        self._waiting.append(notified)
        depth, self._lock.depth, self._lock.owner = self._lock.depth, 0, None
        try:
            self._schedule.wait_until(lambda: notified[0], "a notification", limited=timeout is not None)
            self._schedule.wait_until(lambda: self._lock.owner is None, self._lock.name)
        finally:
            self._waiting = [other for other in self._waiting if other is not notified]
            self._lock.depth, self._lock.owner = depth, self._schedule.me() or _outside
        return notified[0]

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        while not predicate():
            if not self.wait(timeout) and timeout is not None:
                return predicate()
        return True

    def notify(self, n: int = 1) -> None:
        for notified in self._waiting[:n]:
            notified[0] = True
        self._waiting = self._waiting[n:]

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class CooperativeEvent:
    def __init__(self, schedule: Schedule) -> None:
        self._schedule, self._set = schedule, False

    def is_set(self) -> bool:
        self._schedule.step()
        return self._set

    def set(self) -> None:
        self._set = True
        self._schedule.step()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._schedule.wait_until(lambda: self._set, "an event", limited=timeout is not None)


class _Outside:
    number = "outside"


_outside = _Outside()


class CooperativeThreading:
    """The module `threading`, with locks of a schedule. The rest is the real one's."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def Lock(self) -> CooperativeLock:
        return CooperativeLock(self._schedule, reentrant=False)

    def RLock(self) -> CooperativeLock:
        return CooperativeLock(self._schedule, reentrant=True)

    def Condition(self, lock: CooperativeLock | None = None) -> CooperativeCondition:
        return CooperativeCondition(self._schedule, lock)

    def Event(self) -> CooperativeEvent:
        return CooperativeEvent(self._schedule)

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


@contextlib.contextmanager
def scheduled(schedule: Schedule, prefix: str) -> Iterator[None]:
    """Modules whose names begin so use the schedule's locks, and garbage is collected at yield points only."""
    modules = [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith(prefix) and getattr(module, "threading", None) is threading
    ]
    stand_in = CooperativeThreading(schedule)
    hook = sys.unraisablehook

    def unraisable(raised: Any) -> None:
        if not isinstance(raised.exc_value, Deadlock):
            schedule.failures.append(f"a finalizer raised {type(raised.exc_value).__name__}: {raised.exc_value}")

    automatic = gc.isenabled()
    gc.disable()
    gc.freeze()
    for module in modules:
        module.threading = stand_in  # type: ignore[attr-defined]
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for module in modules:
            module.threading = threading  # type: ignore[attr-defined]
        gc.collect()
        gc.unfreeze()
        if automatic:
            gc.enable()
