"""Bounded queues between two threads, and a fair merge of several queues."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The end of a queue. `error` is the producer's exception, or None."""

    error: BaseException | None = None


class BoundedQueue(Generic[T]):
    """A queue of up to `size` items from one producer to one consumer.

    If the queue is full, `put` waits. With `drop_oldest` it drops the oldest item and counts it instead.
    """

    def __init__(self, size: int, *, drop_oldest: bool = False) -> None:
        if size < 1:
            raise ValueError(f"queue size must be 1 or more, got {size}")
        self._size = size
        self._drop_oldest = drop_oldest
        self._items: deque[T] = deque()
        self._dropped = 0
        self._end: End | None = None
        self._changed = threading.Condition()
        self._notify_consumer: Callable[[], None] = lambda: None

    @property
    def dropped(self) -> int:
        """Number of items dropped for newer ones."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Add an item. Return False if the queue has ended; the producer may stop then."""
        with self._changed:
            if self._drop_oldest and self._end is None and len(self._items) == self._size:
                self._items.popleft()
                self._dropped += 1
            self._changed.wait_for(lambda: self._end is not None or len(self._items) < self._size)
            if self._end is not None:
                return False
            self._items.append(item)
            self._changed.notify_all()
            self._notify_consumer()
        return True

    def finish(self, error: BaseException | None = None) -> bool:
        """End the queue. The consumer gets the remaining items, then the end or `error`. False if it had ended."""
        with self._changed:
            first = self._end is None
            if first:
                self._end = End(error)
            self._changed.notify_all()
            self._notify_consumer()
        return first

    def close(self) -> BaseException | None:
        """Discard all items and end the queue, so that `put` returns False. Return the producer's unraised error."""
        with self._changed:
            self._items.clear()
            self.finish()
            return self._take_error()

    def take(self, most: int = 1) -> list[T]:
        """Wait for an item, and return the next items, at most `most`. The list is empty at the end.

        Raises the producer's error once, after the last item.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._end is not None)
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._changed.notify_all()
            if not taken and (error := self._take_error()):
                raise error
            return taken

    def _take_error(self) -> BaseException | None:
        error = self._end.error if self._end is not None else None
        if error is not None:
            self._end = End()
        return error

    def __iter__(self) -> Iterator[T]:
        while taken := self.take():
            yield from taken

    def _poll(self) -> list[T | End]:
        """Return the next item or the end in a list. The list is empty if neither is available."""
        with self._changed:
            if self._items:
                self._changed.notify_all()
                return [self._items.popleft()]
            return [self._end] if self._end is not None else []


class Merge(Generic[T]):
    """Yields (name, item) from several queues in turn. One thread iterates, and any thread may add a queue.

    The last item of each queue is its `End`. An error in one queue does not stop the others.

    Args:
        queues: The queues by name. Default: none.
        open_ended: Wait for more queues when all have ended, until `close`. Default: False.
    """

    def __init__(self, queues: Mapping[str, BoundedQueue[T]] | None = None, *, open_ended: bool = False) -> None:
        self._changed = threading.Event()
        self._turn: deque[tuple[str, BoundedQueue[T]]] = deque()
        self._added: deque[tuple[str, BoundedQueue[T]]] = deque()
        self._open = open_ended
        for name, queue in (queues or {}).items():
            self.add(name, queue)

    def add(self, name: str, queue: BoundedQueue[T]) -> None:
        """Add a queue. Its name may be one of a queue that has ended."""
        queue._notify_consumer = self._changed.set
        self._added.append((name, queue))
        self._changed.set()

    def close(self) -> None:
        """End the iteration once all queues have ended."""
        self._open = False
        self._changed.set()

    def __iter__(self) -> Iterator[tuple[str, T | End]]:
        while True:
            self._changed.clear()  # before the checks, so that no item is missed
            may_grow = self._open  # read before the queues that `close` may be the last to add
            while self._added:
                self._turn.append(self._added.popleft())
            if found := self._next():
                yield found
            elif self._turn or may_grow:
                self._changed.wait()
            else:
                return

    def _next(self) -> tuple[str, T | End] | None:
        for place, (name, queue) in enumerate(self._turn):
            if found := queue._poll():
                del self._turn[place]
                if not isinstance(found[0], End):
                    self._turn.append((name, queue))  # it is last now; the empty queues before it keep their place
                return name, found[0]
        return None
