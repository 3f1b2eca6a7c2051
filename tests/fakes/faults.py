"""Mends that can be taken back, one by one: the stress test must find each fault that one of them mended.

The numbers are those of the points that were found by reading, see the GPU page of the documentation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from fakes import width_faults

from seqpar_deploy.backends.gpu import buffers, calls, cuda, graph_runner, lanes, tensorrt


@contextlib.contextmanager
def _no_lock(*_: Any) -> Iterator[None]:
    yield


class _NoLock:
    """A lock that keeps nobody out."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _after_init(owner: type, change: Callable[[Any], None]) -> Any:
    """Patch `owner` so that its objects are changed once they are made."""
    init = owner.__init__  # type: ignore[misc]

    def changed(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        change(self)

    return mock.patch.object(owner, "__init__", changed)


def _lane_without_lock() -> Any:
    return _after_init(lanes.Lane, lambda lane: setattr(lane, "_lock", _NoLock()))


def _clear_beside_the_lane() -> Any:
    """A new batch is cleared on the decoder's stream, by a thread that has no turn there."""

    def clear(batch: Any) -> None:
        memory, decoder = batch.device.memory, list(batch.device.last_uses)[1]
        for address in memory.self_kv:
            size = memory.self_kv[1] - memory.self_kv[0]
            decoder._cuda.clear(address, size, decoder._stream)

    return _after_init(buffers.DeviceBatch, clear)


def _lanes_do_not_wait() -> Any:
    def use(self: Any, guarded: Any) -> Any:
        return guarded.memory

    return mock.patch.object(lanes.Turn, "use", use)


def _batch_comes_back_too_early() -> Any:
    """A batch is freed while enqueued work uses it."""
    return mock.patch.object(lanes.Guarded, "wait", return_value=None)


def _host_writes_too_early() -> Any:
    def write(self: Any, *arrays: Any, at: Any = (0,)) -> None:
        event, self.copied = self.copied, self._cuda.event()
        try:
            wait(self, *arrays, at=at)
        finally:
            self._cuda.free_event(self.copied)
            self.copied = event

    wait = lanes.Staging.write
    return mock.patch.object(lanes.Staging, "write", write)


def _host_reads_too_early() -> Any:
    def read(self: Any, start: int, size: int) -> Any:
        return self._memory[start : start + size].copy()

    return mock.patch.object(lanes.Staging, "read", read)


def _close_waits_for_nobody() -> Any:
    def end(self: Any) -> None:
        self._closed = True

    return mock.patch.object(calls.Calls, "end", end)


def _closed_is_not_looked_at() -> Any:
    return mock.patch.object(calls.Calls, "call", _no_lock)


class _OneContext:
    """Serves inputs of all shapes, as a context of TensorRT does."""

    def __init__(self, sdk: Any, context: Any, shapes: Any, refuses: Any) -> None:
        self._context, self._shapes, self._refuses = context, shapes, refuses

    def enqueue(self, addresses: Any, turn: Any) -> None:
        accepted = [self._context.set_input_shape(name, tuple(shape)) for name, shape in self._shapes.items()]
        accepted += [self._context.set_tensor_address(name, address) for name, address in addresses.items()]
        if not all(accepted) or not self._context.execute_async_v3(turn.handle):
            raise self._refuses(self._shapes)

    def close(self) -> None:
        """Others use the context."""


def _one_context_for_all_shapes() -> Any:
    def context(self: Any, profile: int, shapes: Any, turn: Any) -> Any:
        held = self.__dict__.setdefault("_one", {})
        if profile not in held:
            held[profile] = self._sdk.context(self._engine)
            held[profile].set_device_memory(self._scratch, self._scratch_size)
            held[profile].set_optimization_profile_async(profile, turn.handle)
        return _OneContext(self._sdk, held[profile], shapes, self._refuses)

    def close_all(self: Any) -> None:
        self.__dict__.pop("_one", None)
        close(self)

    close = tensorrt.TensorRtExecutor.close
    return mock.patch.multiple(tensorrt.TensorRtExecutor, context=context, close=close_all)


def _rtx_context_for_all_addresses() -> Any:
    held = graph_runner.Engine._held

    def one(self: Any, turn: Any, profile: int, shapes: Any, addresses: Any) -> Any:
        return held(self, turn, profile, shapes, {})

    return mock.patch.object(graph_runner.Engine, "_held", one)


@dataclasses.dataclass
class _LockedQueue:
    """A batch is given back under the pool's lock, which the thread that collects garbage may hold."""

    pool: Any

    def put(self, batch: Any) -> None:
        with self.pool._lock:
            self.pool._idle.setdefault(batch.rows, []).append(batch)

    def get_nowait(self) -> Any:
        raise queue.Empty


def _finalizer_takes_the_pools_lock() -> Any:
    """As before, what is new is made under that lock."""
    make = buffers.Pool._make

    def locked(self: Any, rows: int) -> Any:
        with self._lock:
            return make(self, rows)

    stack = contextlib.ExitStack()
    stack.enter_context(_after_init(buffers.Pool, lambda pool: setattr(pool, "_returned", _LockedQueue(pool))))
    stack.enter_context(mock.patch.object(buffers.Pool, "_make", locked))
    stack.enter_context(mock.patch.object(buffers.Pool, "free_idle", return_value=0))
    return stack


def _allocation_beside_a_capture() -> Any:
    return _after_init(cuda.Cuda, lambda made: setattr(made, "_exclusive", _NoLock()))


def _device_of_the_thread() -> Any:
    return mock.patch.object(cuda.Cuda, "current", _no_lock)


def _cache_is_not_cleared() -> Any:
    return mock.patch.object(lanes.Turn, "clear", return_value=None)


def _graph_is_destroyed_while_it_runs() -> Any:
    return mock.patch.object(lanes.Turn, "synchronise", return_value=None)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A way to plant it, and the kinds of failure that show it."""

    plant: Callable[[], Any]
    kinds: frozenset[str]


def _fault(plant: Callable[[], Any], *kinds: str) -> Fault:
    return Fault(plant, frozenset(kinds))


FAULTS = {
    "1-clear-beside-the-lane": _fault(_clear_beside_the_lane, "capture", "tokens"),
    "1-lane-without-lock": _fault(_lane_without_lock, "capture", "tokens", "context"),
    "2-lanes-do-not-wait": _fault(_lanes_do_not_wait, "tokens"),
    "2-host-writes-too-early": _fault(_host_writes_too_early, "host", "tokens"),
    "2-host-reads-too-early": _fault(_host_reads_too_early, "tokens"),
    "2-batch-freed-too-early": _fault(_batch_comes_back_too_early, "freed"),
    "3-close-waits-for-nobody": _fault(_close_waits_for_nobody, "handle", "freed", "order"),
    "3-closed-is-not-looked-at": _fault(_closed_is_not_looked_at, "handle", "freed", "closed"),
    "4-rtx-context-for-all-addresses": _fault(_rtx_context_for_all_addresses, "recapture"),
    "8-one-context-for-all-shapes": _fault(_one_context_for_all_shapes, "stale"),
    "11-finalizer-takes-the-pools-lock": _fault(_finalizer_takes_the_pools_lock, "deadlock"),
    "allocation-beside-a-capture": _fault(_allocation_beside_a_capture, "capture"),
    "device-of-the-thread": _fault(_device_of_the_thread, "device"),
    "cache-is-not-cleared": _fault(_cache_is_not_cleared, "tokens"),
    "graph-destroyed-while-it-runs": _fault(_graph_is_destroyed_while_it_runs, "order", "freed"),
    "width-step-reads-the-whole-square": _fault(width_faults.step_reads_the_whole_square, "tokens"),
    "width-context-of-another": _fault(width_faults.context_of_another_width, "tokens"),
    "width-crops-uploaded-as-squares": _fault(width_faults.crops_uploaded_as_squares, "tokens", "pooled"),
    "width-gather-strides-of-squares": _fault(width_faults.gather_strides_of_squares, "tokens", "freed"),
    "width-gather-strides-of-one-token-less": _fault(width_faults.gather_strides_without_class_token, "tokens"),
    "pooled-of-the-neighbour": _fault(width_faults.pooled_of_the_neighbour, "pooled"),
    "pooled-is-not-reordered": _fault(width_faults.pooled_is_not_reordered, "pooled"),
    "pooled-of-another-batch": _fault(width_faults.pooled_is_read_after_the_batch_moved, "pooled"),
}


def planted(name: str | None) -> contextlib.AbstractContextManager[Any]:
    """The code without this mend; as it is if no name is given."""
    made: contextlib.AbstractContextManager[Any] = contextlib.nullcontext() if name is None else FAULTS[name].plant()
    return made
