"""Handing things from one thread to another through bounded queues, and from several threads to one, fair to each."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """Nothing follows. `error` is what the producer died of, or None."""

    error: BaseException | None = None


class BoundedQueue(Generic[T]):
    """At most `size` items on their way from one producer to one consumer.

    A `put` into a full queue waits, or with `drop_oldest` makes room by dropping the oldest item, which is counted.
    """

    def __init__(self, size: int, *, drop_oldest: bool = False) -> None:
        if size < 1:
            raise ValueError(f"a queue of size {size} holds nothing; wanted at least 1")
        self._size = size
        self._drop_oldest = drop_oldest
        self._items: deque[T] = deque()
        self._dropped = 0
        self._end: End | None = None
        self._changed = threading.Condition()
        self._tell_consumer: Callable[[], None] = lambda: None

    @property
    def dropped(self) -> int:
        """How many items made room for newer ones."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Hand over an item. False if the queue has ended: nobody will take it, and the producer may stop."""
        with self._changed:
            if self._drop_oldest and self._end is None and len(self._items) == self._size:
                self._items.popleft()
                self._dropped += 1
            self._changed.wait_for(lambda: self._end is not None or len(self._items) < self._size)
            if self._end is not None:
                return False
            self._items.append(item)
            self._changed.notify_all()
            self._tell_consumer()
        return True

    def finish(self, error: BaseException | None = None) -> bool:
        """Nothing more comes: the consumer gets what is there, then the end, or `error`. False if that was so already:
        only the first call counts."""
        with self._changed:
            first = self._end is None
            if first:
                self._end = End(error)
            self._changed.notify_all()
            self._tell_consumer()
        return first

    def close(self) -> BaseException | None:
        """Nothing more is taken: what is there is let go, and a producer that waits goes on, with False. The producer's
        error, if it has not been raised."""
        with self._changed:
            self._items.clear()
            self.finish()
            return self._take_error()

    def take(self, most: int = 1) -> list[T]:
        """Wait for an item; it, and those behind it that are there already, `most` in all. Empty at the end.

        Raises the producer's error, after everything it has put, once.
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
        """The next item, or the end; an empty list if there is neither yet."""
        with self._changed:
            if self._items:
                self._changed.notify_all()
                return [self._items.popleft()]
            return [self._end] if self._end is not None else []


def merge(queues: Mapping[str, BoundedQueue[T]]) -> Iterator[tuple[str, T | End]]:
    """What comes out of several queues, with the name of each: one item from each that has any, in turn.

    The last that comes of each is its `End`; an error in one stops none of the others. One thread may do this.
    """
    changed = threading.Event()
    for queue in queues.values():
        queue._tell_consumer = changed.set
    turn = deque(queues)
    while turn:
        changed.clear()  # before looking, so that what comes while looking is not missed
        for name in list(turn):
            if found := queues[name]._poll():
                turn.remove(name)
                if not isinstance(found[0], End):
                    turn.append(name)  # last in turn; those passed over were empty, and stay ahead
                yield name, found[0]
                break
        else:
            changed.wait()
