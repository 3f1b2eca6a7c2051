from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from seqpar_deploy.video.queues import BoundedQueue, End, Merge

_PATIENCE = 10.0  # s. Only a test that fails waits this long


@pytest.fixture
def started() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    """Runs functions in threads, and sees that they end."""
    threads = []

    def start(work: Callable[[], object]) -> threading.Thread:
        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(_PATIENCE)
        assert not thread.is_alive()


def _filled(*items: object, size: int = 10) -> BoundedQueue[object]:
    queue = BoundedQueue[object](size)
    for item in items:
        queue.put(item)
    queue.finish()
    return queue


def test_everything_arrives_in_order_and_never_more_than_fits_waits(started):
    queue = BoundedQueue[int](3)
    most = 0

    def produce() -> None:
        for number in range(500):
            assert queue.put(number)
        queue.finish()

    started(produce)
    arrived = []
    for number in queue:
        most = max(most, len(queue))
        arrived.append(number)
    assert arrived == list(range(500))
    assert most <= 3
    assert queue.dropped == 0


def test_the_oldest_make_room_and_are_counted():
    queue = BoundedQueue[int](3, drop_oldest=True)
    for number in range(10):
        assert queue.put(number)
    queue.finish()
    assert list(queue) == [7, 8, 9]
    assert queue.dropped == 7


@pytest.mark.parametrize("stop", [BoundedQueue.close, BoundedQueue.finish])
def test_a_producer_that_waits_goes_on_when_the_queue_ends(started, stop):
    queue = BoundedQueue[int](1)
    queue.put(1)
    answers = []
    waiting = started(lambda: answers.append(queue.put(2)))
    stop(queue)
    waiting.join(_PATIENCE)
    assert answers == [False]
    assert list(queue) == ([1] if stop is BoundedQueue.finish else [])


def test_an_ended_queue_drops_nothing_more():
    queue = BoundedQueue[int](1, drop_oldest=True)
    queue.put(1)
    queue.finish()
    assert not queue.put(2)
    assert (list(queue), queue.dropped) == ([1], 0)


def test_an_error_of_the_producer_comes_after_what_it_has_put():
    queue = BoundedQueue[int](3)
    queue.put(1)
    queue.finish(ValueError("damaged"))
    queue.finish()
    assert queue.take() == [1]
    with pytest.raises(ValueError, match="damaged"):
        queue.take()
    assert (queue.take(), queue.close()) == ([], None)  # it is raised once


def test_closing_gives_an_error_that_nobody_was_given():
    queue, error = BoundedQueue[int](3), ValueError("damaged")
    queue.put(1)
    assert queue.finish(error)
    assert not queue.finish()
    assert queue.close() is error
    assert (queue.take(), queue.close()) == ([], None)


def test_take_gives_what_is_there_up_to_a_batch():
    queue = _filled(1, 2, 3)
    assert [queue.take(2), queue.take(2), queue.take(2)] == [[1, 2], [3], []]


def test_a_queue_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="got 0"):
        BoundedQueue[int](0)


def test_merge_takes_turns():
    merged = Merge({"a": _filled(0, 1, 2), "b": _filled(0, 1, 2), "c": _filled(0)})
    end = End()
    assert list(merged) == [
        ("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", end), ("a", 2), ("b", 2), ("a", end), ("b", end),
    ]  # fmt: skip


def test_merge_starves_nobody(started):
    busy = BoundedQueue[int](4)
    started(lambda: all(busy.put(number) for number in itertools.count()))
    merged = Merge({"busy": busy, "slow": _filled(1, 2, 3)})
    first = [name for name, _ in itertools.islice(merged, 8)]
    assert first.count("slow") >= 3
    busy.close()


def test_merge_goes_on_when_one_source_dies():
    broken = BoundedQueue[int](1)
    error = ValueError("damaged")
    broken.finish(error)
    assert list(Merge({"broken": broken, "well": _filled(1)})) == [
        ("broken", End(error)), ("well", 1), ("well", End()),
    ]  # fmt: skip


def test_merge_waits_for_every_thread(started):
    queues = {name: BoundedQueue[int](2) for name in "abc"}

    def produce(queue: BoundedQueue[int]) -> None:
        for number in range(200):
            queue.put(number)
        queue.finish()

    arrived: dict[str, list[object]] = {name: [] for name in queues}
    merging = started(lambda: [arrived[name].append(item) for name, item in Merge(queues)])
    for queue in queues.values():
        started(lambda queue=queue: produce(queue))
    merging.join(_PATIENCE)
    assert arrived == {name: [*range(200), End()] for name in queues}
