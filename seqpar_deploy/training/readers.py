"""Processes that read ahead: a pool whose waits end, and whose processes end with it.

Results return through a pipe and not through shared memory, as those of torch's DataLoader do, which waits without end
once /dev/shm is full. In a container it has 64 MB by default. A batch of 32 pictures has 5 MB, which a pipe carries in
5 ms.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from seqpar_deploy.errors import SeqparError, TrainingError
from seqpar_deploy.interruption import STOP_SIGNALS

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

_SHARED = Path("/dev/shm")  # POSIX semaphores are files in it, of one page each
_SEMAPHORES = 256 * 1024  # bytes; a pool has about 10 of 4 kB, and what trains beside it has some
_PATIENCE = 600.0  # seconds per batch; a network drive may pause for minutes


def check_workers(workers: int) -> None:
    """Raise TrainingError if there is no room for the semaphores of reading processes."""
    if not workers or not _SHARED.is_dir():
        return
    space = os.statvfs(_SHARED)
    if (free := space.f_bavail * space.f_frsize) < _SEMAPHORES:
        raise TrainingError(
            f"{_SHARED} must have {_SEMAPHORES // 1024} kB free for --workers {workers}, got {free // 1024} kB; "
            "empty or enlarge it (docker run --shm-size=64m), or pass --workers 0"
        )


def read_ahead(
    function: Callable[[_Job], _Result], jobs: Iterator[_Job], *, workers: int
) -> Generator[_Result, None, None]:
    """Yield `function(job)` of each job in their order, computed ahead in other processes.

    Args:
        function: A picklable function. It is sent to each process once.
        jobs: The arguments. Two per process are taken ahead.
        workers: Number of processes, at least 1.

    Yields:
        The results.

    Raises:
        SeqparError: The function raised it.
        TrainingError: A process ended, or gave no result within 10 minutes, or cannot be started.
    """
    check_workers(workers)
    try:
        with _pool(function, workers) as pool:
            waiting = collections.deque(pool.submit(_run, job) for job in itertools.islice(jobs, 2 * workers))
            while waiting:
                result = _result(waiting.popleft())
                waiting.extend(pool.submit(_run, job) for job in itertools.islice(jobs, 1))
                yield result
    except (OSError, BrokenProcessPool) as error:
        raise _broken(error) from None


def _result(future: Future[Any]) -> Any:
    try:
        return future.result(timeout=_PATIENCE)
    except SeqparError as error:
        raise error from None  # without the traceback of the other process
    except TimeoutError:
        raise TrainingError(
            f"a batch of images must be read within {_PATIENCE:.0f} s, got none; check the disk or the network drive "
            "of the data. The same command resumes the run"
        ) from None
    except MemoryError:
        raise _broken(None) from None


def _broken(error: BaseException | None) -> TrainingError:
    if isinstance(error, OSError):
        return TrainingError(
            f"the processes that read images cannot be started: {error.strerror or type(error).__name__}; "
            "pass fewer --workers, or --workers 0"
        )
    return TrainingError(
        "the processes that read images must run until the end, got one that was killed or ran out of memory; "
        "pass fewer --workers, or --workers 0. The same command resumes the run"
    )


@contextlib.contextmanager
def _pool(function: Callable[..., object], workers: int) -> Iterator[ProcessPoolExecutor]:
    before = multiprocessing.active_children()
    # Not "fork": a forked process of a runtime with threads may die without an error.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(function,))
    try:
        yield pool
    finally:
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()  # one that waits for a disk would keep this process from its end
        pool.shutdown(cancel_futures=True)


_function: Callable[..., object] | None = None  # in a reading process: the function to run


def _begin(function: Callable[..., object]) -> None:
    """Prepare a reading process."""
    global _function
    _function = function
    # A process that dies of a signal to all processes would end the run before the state is saved.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run(job: object) -> object:
    assert _function is not None
    return _function(job)
