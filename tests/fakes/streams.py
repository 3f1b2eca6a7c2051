"""Streams, events, captures and graphs of a device that is not there, and how its work advances."""

from __future__ import annotations

import ctypes
import dataclasses
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterator

from fakes.memory import POISON, Memory, Range, overlap


@dataclasses.dataclass
class Event:
    """`recorded` counts the times it was recorded, `done` those that have come to pass."""

    number: int
    device: int
    recorded: int = 0
    done: int = 0
    stream: Stream | None = None  # where it was recorded last
    capture: Capture | None = None  # the capture that it was recorded in last


@dataclasses.dataclass
class Operation:
    """One piece of work. It reads `reads` and writes `writes`, which must be live memory when it runs."""

    name: str
    run: Callable[[], None]
    reads: tuple[Range, ...] = ()
    writes: tuple[Range, ...] = ()
    awaits: tuple[Event, int, Stream] | None = None  # an event, which of its recordings, and where it was recorded
    records: tuple[Event, int] | None = None
    contiguous: bool = False  # it reads and writes every byte of its ranges
    checksum: int | None = None  # of the pinned memory that it reads, when it was enqueued
    at_launch: Callable[[Operation], Operation] | None = None  # what a graph that holds it enqueues instead
    graph: GraphExec | None = None

    @property
    def runnable(self) -> bool:
        return self.awaits is None or self.awaits[0].done >= self.awaits[1]


@dataclasses.dataclass
class Capture:
    stream: Stream
    thread: int
    operations: list[Operation] = dataclasses.field(default_factory=list)
    invalid: str | None = None


@dataclasses.dataclass
class Stream:
    number: int
    device: int
    queue: deque[Operation] = dataclasses.field(default_factory=deque)
    capture: Capture | None = None


@dataclasses.dataclass
class Graph:
    number: int
    device: int
    operations: list[Operation]


@dataclasses.dataclass
class GraphExec:
    number: int
    device: int
    operations: list[Operation]
    pending: int = 0


class Streams:
    """The queues of one device, which advance at once, late, or at random.

    `report(kind, text)` takes what no program may do.
    """

    def __init__(
        self, memory: Memory, report: Callable[[str, str], None], *, eager: bool, random_source: random.Random | None
    ) -> None:
        self._memory, self._report, self._eager, self._random = memory, report, eager, random_source
        self.all: dict[int, Stream] = {}
        self.executed = 0

    def captures(self) -> list[Capture]:
        return [stream.capture for stream in self.all.values() if stream.capture is not None]

    def pending(self) -> Iterator[Operation]:
        for stream in self.all.values():
            yield from stream.queue

    def pending_on(self, place: Range) -> Operation | None:
        """Work that has yet to run and touches these bytes."""
        for operation in self.pending():
            if any(overlap(place, other) for other in (*operation.reads, *operation.writes)):
                return operation
        return None

    def append(self, stream: Stream, operation: Operation) -> None:
        if operation.contiguous:
            self._look_at_host_memory(operation)
        if operation.graph is not None:
            operation.graph.pending += 1
        stream.queue.append(operation)
        if self._eager:
            self.run_all()

    def _look_at_host_memory(self, operation: Operation) -> None:
        """The host may not change what a copy has yet to read, nor read what one has yet to write: the first is found
        by a checksum, the second by poison."""
        for address, size in operation.reads:
            if self._memory.is_pinned(address):
                operation.checksum = zlib.crc32((ctypes.c_uint8 * size).from_address(address))
        for place in operation.writes:
            if self._memory.is_pinned(place[0]) and self.pending_on(place) is None:
                ctypes.memset(place[0], POISON, place[1])

    # Advancing

    def run_all(self) -> None:
        """Run what can run, on every stream."""
        again = True
        while again:
            again = False
            for stream in list(self.all.values()):
                while stream.queue and stream.queue[0].runnable:
                    self._run_next(stream)
                    again = True

    def advance(self) -> None:
        """A call was made: time passes."""
        if self._random is None or self._random.random() < 0.5:
            return
        for _ in range(self._random.choice((1, 1, 2, 4, 32))):
            runnable = [stream for stream in self.all.values() if stream.queue and stream.queue[0].runnable]
            if not runnable:
                return
            self._run_next(self._random.choice(runnable))

    def finish(self, stream: Stream, event: Event | None = None, generation: int = 0) -> None:
        """Run what is needed until `stream` is empty, or this recording of the event has come to pass."""
        while stream.queue if event is None else event.done < generation:
            at: Stream | None = stream
            seen = []
            while at is not None and at.queue and not at.queue[0].runnable:
                seen.append(at.number)
                awaited = at.queue[0].awaits
                assert awaited is not None
                at = awaited[2] if awaited[2].number not in seen else None
            if at is None or not at.queue:
                self._report("order", f"stream {stream.number} waits for an event that never comes to pass")
                stream.queue.clear()
                return
            self._run_next(at)

    def finish_on(self, place: Range) -> None:
        """Run everything that touches these bytes, and what that needs."""
        while any(self._touches(stream, place) for stream in self.all.values()):
            for stream in self.all.values():
                while self._touches(stream, place):
                    self._finish_one(stream)

    @staticmethod
    def _touches(stream: Stream, place: Range) -> bool:
        return any(
            overlap(place, other) for operation in stream.queue for other in (*operation.reads, *operation.writes)
        )

    def _finish_one(self, stream: Stream) -> None:
        head = stream.queue[0]
        if not head.runnable and head.awaits is not None:
            event, generation, source = head.awaits
            self.finish(source, event, generation)
        if stream.queue and stream.queue[0] is head:
            self._run_next(stream)

    def _run_next(self, stream: Stream) -> None:
        operation = stream.queue.popleft()
        self.executed += 1
        faults = [fault for place in (*operation.reads, *operation.writes) if (fault := self._memory.fault(*place))]
        for fault in faults:
            self._report("freed", f"{operation.name} ran when {fault}")
        if not faults:
            if operation.checksum is not None:
                address, size = operation.reads[0]
                if zlib.crc32((ctypes.c_uint8 * size).from_address(address)) != operation.checksum:
                    self._report("host", f"pinned memory changed while its {operation.name} was pending")
            try:
                operation.run()
            except Exception as error:
                self._report("operation", f"{operation.name} failed: {type(error).__name__}: {error}")
        if operation.records is not None:
            event, generation = operation.records
            event.done = max(event.done, generation)
        if operation.graph is not None:
            operation.graph.pending -= 1
