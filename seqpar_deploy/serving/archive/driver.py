"""The driver: gives the calls of all shards to workers, and writes a shard when its last call has returned.

At most two calls per worker are under way, and `2 * workers + 1` shards are open. So the memory of the driver does not
grow with the archive: an open shard holds its rows, about 1 kB each.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.job import write_shard
from seqpar_deploy.serving.archive.places import reason
from seqpar_deploy.serving.archive.plan import EntryReader, Shard
from seqpar_deploy.serving.archive.rows import Rows
from seqpar_deploy.serving.archive.schema import ResultMetadata, result_schema
from seqpar_deploy.serving.archive.sdk import import_pyarrow
from seqpar_deploy.serving.archive.worker import Worker, WorkerOptions

_CALLS = 2  # per worker, so that it need not wait for the next one
_LOOK_EVERY = 0.2  # seconds
_NODES_EVERY = 5.0  # seconds between two looks at the nodes, while a worker starts
_START_LIMIT = 300.0  # seconds for a worker to start
_ANSWER = 10.0  # seconds for a worker that follows a video to say how far it is
_IN_A_ROW = 20  # losses without any result between them, after which the job fails

_log = logging.getLogger(__name__)


class RayLostError(Exception):
    """Raised if no node of Ray is alive any more. Shards that were written are not lost."""


class StoppedError(Exception):
    """Raised if the run was asked to stop."""


@dataclasses.dataclass(eq=False, kw_only=True)
class _Call:
    """A part of a shard: one call of a worker.

    A call whose worker is lost is tried again. Once it was lost too often, each of its entries is tried alone, as a
    call with a `parent`. Those that are lost too are set aside, and the call is made without them.
    """

    shard: Shard
    place: int
    entries: Sequence[Entry]
    losses: int = 0
    set_aside: set[int] = dataclasses.field(default_factory=set)
    alone: int = 0  # calls of single entries that have not ended
    was_split: bool = False
    parent: _Call | None = None


class _Slot:
    """A worker, its calls under way, the first of which it runs, and since when."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.opening: Any = handle.open.remote()  # None once it is open
        self.calls: collections.deque[tuple[Any, _Call]] = collections.deque()
        self.since = time.monotonic()
        self.frames = 0

    @property
    def next_result(self) -> Any:
        """The reference of the next result, None if nothing is under way."""
        return self.opening if self.opening is not None else self.calls[0][0] if self.calls else None


class Driver:
    """Runs shards on workers of Ray.

    Args:
        ray: The module `ray`, connected.
        folder: Folder of the job.
        options: How workers open their Recognizer.
        metadata: Metadata of the files of results.
        workers: Number of workers.
        tries: Losses of a worker after which a call is split, or an entry that is alone is set aside.
        time_limit: Seconds that a call may take, or a video may take without a new frame.
        on_done: Called with the number of entries of each call that has ended.
        should_stop: Returns whether to stop.
    """

    def __init__(
        self,
        ray: Any,
        folder: Path,
        options: WorkerOptions,
        metadata: ResultMetadata,
        *,
        workers: int,
        tries: int,
        time_limit: float,
        on_done: Callable[[int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._ray, self._folder, self._options, self._metadata = ray, folder, options, metadata
        self._batch = options.settings.batch
        self._workers, self._tries, self._time_limit = workers, tries, time_limit
        self._on_done, self._should_stop = on_done, should_stop
        self._actor = ray.remote(
            num_cpus=options.threads, max_restarts=0, scheduling_strategy="SPREAD", concurrency_groups={"control": 1}
        )(Worker)
        self._slots: list[_Slot] = []
        self._waiting: collections.deque[_Call] = collections.deque()
        self._open: dict[int, dict[int, Any]] = {}  # results by place, by shard
        self._missing: dict[int, int] = {}  # calls without a result, by shard
        self._in_a_row = 0
        self._looked = 0.0

    def run(self, shards: Iterator[Shard]) -> None:
        """Run shards to their end.

        Raises:
            ArchiveError: A worker cannot open the bundle, too many are lost in a row, or a file cannot be written.
            RayLostError: No node is alive.
            StoppedError: The run was asked to stop.
        """
        reader = EntryReader(self._folder)
        self._slots = [self._new_slot() for _ in range(self._workers)]
        more = True
        while more or self._open:
            if self._should_stop():
                raise StoppedError
            while more and len(self._open) <= 2 * self._workers and len(self._waiting) < _CALLS * self._workers:
                shard = next(shards, None)
                more = shard is not None
                if shard is not None:
                    self._begin(shard, reader.read(shard))
            self._assign()
            self._take_results()
            self._look_for_hangs()
            self._look_at_nodes()

    def _new_slot(self) -> _Slot:
        return _Slot(self._actor.remote(self._options))

    def _begin(self, shard: Shard, entries: list[Entry]) -> None:
        parts = [entries[start : start + self._batch] for start in range(0, len(entries), self._batch)]
        self._open[shard.number], self._missing[shard.number] = {}, len(parts)
        self._waiting += [_Call(shard=shard, place=place, entries=part) for place, part in enumerate(parts)]

    def _assign(self) -> None:
        """Give waiting calls to open workers, evenly. Nothing waits for a video, which may take hours."""
        for depth in range(_CALLS):
            for slot in self._slots:
                if slot.opening is None and len(slot.calls) == depth and self._waiting:
                    if depth and (slot.calls[0][1].shard.video or self._waiting[0].shard.video):
                        continue
                    call = self._waiting.popleft()
                    if not slot.calls:
                        slot.since = time.monotonic()
                    slot.calls.append((self._submit(slot, call), call))

    def _submit(self, slot: _Slot, call: _Call) -> Any:
        if call.shard.video:
            return slot.handle.watch.remote(call.entries[0])
        return slot.handle.recognize.remote(call.entries, sorted(call.set_aside), self._why())

    def _take_results(self) -> None:
        slots = {slot.next_result: slot for slot in self._slots if slot.next_result is not None}
        if not slots:
            time.sleep(_LOOK_EVERY)
            return
        ready, _ = self._ray.wait(list(slots), timeout=_LOOK_EVERY)
        for reference in ready:
            slot = slots[reference]
            try:
                result = self._ray.get(reference, timeout=_START_LIMIT)
            except self._ray.exceptions.RayTaskError as error:
                self._failed(slot, error)
            except self._ray.exceptions.RayError as error:  # the worker, its node or the result is lost
                self._lost(slot, reason(error).partition(".")[0])
            else:
                self._succeeded(slot, result)

    def _succeeded(self, slot: _Slot, result: Any) -> None:
        slot.since = time.monotonic()
        if slot.opening is not None:
            if result:
                raise ArchiveError(result)
            slot.opening = None
            return
        self._in_a_row = 0
        _, call = slot.calls.popleft()
        self._ended(call, result)

    def _ended(self, call: _Call, result: Any) -> None:
        """Take the result of a call. That of a single entry only tells that it is harmless."""
        if (parent := call.parent) is not None:
            parent.alone -= 1
            if not parent.alone:
                parent.losses = 0
                self._waiting.appendleft(parent)
            return
        number = call.shard.number
        self._open[number][call.place] = result
        self._missing[number] -= 1
        self._on_done(len(call.entries))
        if not self._missing[number]:
            batches = self._open.pop(number)
            del self._missing[number]
            schema = result_schema(self._metadata)
            table = import_pyarrow().Table.from_batches([batches[place] for place in sorted(batches)], schema)
            write_shard(self._folder, number, table.combine_chunks())

    def _failed(self, slot: _Slot, error: Any) -> None:
        """Take an exception of a call: the worker lives, but the call counts as lost."""
        if slot.opening is not None:
            raise ArchiveError(f"a worker must open the bundle, got {reason(error.cause or error)}")
        _log.debug("a call failed", exc_info=error)
        _, call = slot.calls.popleft()
        slot.since = time.monotonic()
        self._blame(call, reason(error.cause or error))

    def _lost(self, slot: _Slot, why: str) -> None:
        """Replace a worker that was lost, and make its calls again. The first of them was running."""
        self._slots.remove(slot)
        calls = [call for _, call in slot.calls]
        for call in reversed(calls[1:]):
            self._waiting.appendleft(call)
        if calls:
            self._blame(calls[0], why)
        else:
            self._count_loss(why)
        _log.debug("a worker was lost: %s", why)
        self._slots.append(self._new_slot())

    def _count_loss(self, why: str) -> None:
        self._in_a_row += 1
        if self._in_a_row >= _IN_A_ROW:
            raise ArchiveError(f"workers must give results, got {_IN_A_ROW} losses in a row: {why}; see --verbose")

    def _blame(self, call: _Call, why: str) -> None:
        """Count a loss of a call, and decide what to do with it."""
        self._count_loss(why)
        call.losses += 1
        if call.losses < self._tries:
            self._waiting.appendleft(call)
        elif call.parent is not None:
            place = next(number for number, entry in enumerate(call.parent.entries) if entry is call.entries[0])
            call.parent.set_aside.add(place)
            _log.warning("%s is set aside: its worker was lost %d times (%s)", call.entries[0].id, self._tries, why)
            self._ended(call, None)
        elif call.shard.video or call.was_split:
            _log.warning("%s is set aside: its worker was lost %d times (%s)", call.entries[0].id, self._tries, why)
            rows = Rows(self._metadata)
            for entry in call.entries:
                rows.add_error(entry, self._why())
            self._ended(call, rows.to_batch())
        else:
            call.was_split = True
            call.alone = len(call.entries)
            for entry in reversed(call.entries):
                self._waiting.appendleft(_Call(shard=call.shard, place=call.place, entries=[entry], parent=call))

    def _why(self) -> str:
        return f"its worker was lost {self._tries} times; it is not tried again"

    def _look_for_hangs(self) -> None:
        now = time.monotonic()
        for slot in list(self._slots):
            limit = _START_LIMIT if slot.opening is not None else self._time_limit
            if slot.next_result is None or now - slot.since < limit:
                continue
            if slot.opening is None and slot.calls[0][1].shard.video and (frames := self._frames(slot)) != slot.frames:
                slot.frames, slot.since = frames, now
                continue
            self._ray.kill(slot.handle)
            self._lost(slot, f"no answer for {limit:g} s")

    def _frames(self, slot: _Slot) -> int:
        """Return the frames that a worker has followed, or those of the last look if it does not answer."""
        try:
            reference = slot.handle.frames.options(concurrency_group="control").remote()
            return int(self._ray.get(reference, timeout=_ANSWER))
        except self._ray.exceptions.RayError:
            return slot.frames

    def _look_at_nodes(self) -> None:
        now = time.monotonic()
        if all(slot.opening is None for slot in self._slots) or now - self._looked < _NODES_EVERY:
            return
        self._looked = now
        try:
            alive = any(node["Alive"] for node in self._ray.nodes())
        except Exception:  # of many kinds, if the head is gone
            alive = False
        if not alive:
            raise RayLostError
