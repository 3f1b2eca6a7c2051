"""Decoding that stays on an NVIDIA GPU. Crops go in and tokens come out; everything between stays on the device.

    host    crops ─┐                                                      ┌─ tokens, log-probabilities
    device         └─ encoder ── cross_kv ──┬── step ──┬── step ──┬── step ┘
                                      self_kv[0]  self_kv[1]  self_kv[0]   ...and so outputs[0], outputs[1]

A step reads the cache and the token that the step before wrote, and writes into the other buffer of each pair: an SDK
may not write where it reads. The host looks at what came out every few steps, one look behind the device. Encoding has
a stream of its own, so that another batch can be encoded meanwhile.

TensorRT (`tensorrt.py`) or ONNX Runtime (`onnxruntime_cuda.py`) runs the graphs. Not yet measured on hardware: tests
run this file on stand-ins for CUDA, see tests/backends.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import Int64Array, StepOutput
from seqpar_deploy.backends.gpu.buffers import FLOAT32, INT64, DeviceBatch, Pool, outputs_size
from seqpar_deploy.backends.gpu.cuda import Address, Cuda, aligned
from seqpar_deploy.backends.gpu.graph_runner import Engine
from seqpar_deploy.bundle import BatchProfile, Bundle
from seqpar_deploy.errors import BackendError
from seqpar_deploy.vocab import BOS


class DeviceState:
    """Rows being decoded in a device batch. `parity` says which buffer of each pair the next step writes."""

    def __init__(self, backend: DeviceBackend, batch: DeviceBatch, rows: int) -> None:
        self._backend = backend
        self.rows = rows
        self.parity = 0
        self._lengths = np.zeros(rows, dtype=np.int64)
        self.crop_of_row = np.arange(rows)
        self.hold(batch)

    def hold(self, batch: DeviceBatch) -> None:
        """Live in this batch from now on; it is given back when nobody holds the state any more."""
        self.batch = batch
        self._give_back = weakref.finalize(self, self._backend.pool.give_back, batch)
        self._give_back.atexit = False

    def release(self) -> None:
        """Give the batch back before the state is gone."""
        self._give_back()

    def move_to(self, batch: DeviceBatch) -> None:
        """Live in another batch, and give this one back."""
        self.release()
        self.hold(batch)

    @property
    def lengths(self) -> Int64Array:
        return self._lengths

    def advance(self, tokens: int) -> None:
        self._lengths = self._lengths + tokens
        self.parity = 1 - self.parity

    def truncate(self, lengths: Int64Array) -> None:
        if np.any(lengths > self._lengths) or np.any(lengths < 0):
            raise ValueError(f"cannot truncate rows of lengths {self._lengths} to {lengths}")
        self._lengths = np.array(lengths, dtype=np.int64)

    def reorder(self, rows: Int64Array) -> None:
        self._backend.gather(self, np.asarray(rows))
        self.rows, self._lengths, self.crop_of_row = len(rows), self._lengths[rows], self.crop_of_row[rows]


class DeviceBackend:
    """Decodes with two engines of whatever SDK. Threads may share it."""

    device = "cuda"

    def __init__(
        self,
        bundle: Bundle,
        *,
        name: str,
        batches: Sequence[BatchProfile],
        cuda: Cuda,
        encoder: Engine,
        decoder_step: Engine,
        look_every: int = 4,
    ) -> None:
        """The engines run batches of these profiles. While decoding greedily, the host looks for finished rows each
        `look_every` steps: looking costs time, not looking costs steps that nobody needs. `close` frees all `cuda` has.

        Raises BackendError.
        """
        self.name = name
        self._dimensions, self._batches = bundle.dimensions, batches
        self._look_every = look_every
        self._cuda, self._encoder, self._decoder_step = cuda, encoder, decoder_step
        item = 2 if bundle.precision == "fp16" else 4
        self.pool = Pool(cuda, self._dimensions, item, decoder_step.stream)
        self._positions, self._bos = self._constants()
        self._closed = False

    @property
    def max_rows(self) -> int:
        """The most rows a batch may have: of the largest profile the engines were built for."""
        return max(batch.max for batch in self._batches)

    def _constants(self) -> tuple[Address, Address]:
        """On the device: for each step a row of its position, and a row of `<bos>`."""
        rows, capacity = self.max_rows, self._dimensions.capacity
        values = np.repeat(np.arange(capacity + 1, dtype=np.int64), rows)
        values[-rows:] = BOS
        staging = self._cuda.pinned(values.nbytes)
        staging[:] = values.view(np.uint8)
        address = self._cuda.allocate(values.nbytes)
        self._cuda.copy(address, staging.ctypes.data, values.nbytes, self._decoder_step.stream)
        self._cuda.synchronise(self._decoder_step.stream)
        return address, address + capacity * rows * INT64

    def _profile(self, rows: int) -> int:
        """The batch profile with the least room that holds `rows`."""
        fitting = [i for i, batch in enumerate(self._batches) if batch.min <= rows <= batch.max]
        if not fitting:
            room = ", ".join(f"{batch.min} to {batch.max}" for batch in self._batches)
            raise BackendError(
                f"a batch of {rows} rows, the engines hold {room}; pass a smaller batch size, or build them for more: "
                "seqpar-export engine --batch"
            )
        return min(fitting, key=lambda i: self._batches[i].max)

    # Encoding

    def encode(self, crops: npt.NDArray[np.uint8]) -> DeviceState:
        """Start B sequences from prepared crops (B, H, W, 3) uint8. Returns while the device is at work.

        Raises BackendError where the engines do not hold B rows, or memory runs out.
        """
        profile = self._profile(len(crops))
        batch = self.pool.take(self._batches[profile].max)
        state = DeviceState(self, batch, len(crops))
        cuda, stream = self._cuda, self._encoder.stream
        batch.crops_staging[: crops.size] = crops.reshape(-1)
        # Whoever had the batch before may have work under way, steps that nobody waited for: they read what is written
        # here, and nobody reads what they write.
        with self._encoder.lock:
            cuda.copy(batch.crops, batch.crops_staging.ctypes.data, crops.size, stream)
            self._encoder.run(profile, {"crops": crops.shape}, {"crops": batch.crops, "cross_kv": batch.cross_kv})
            cuda.record(batch.encoded, stream)
        return state

    # Decoding

    def step(self, state: DeviceState, tokens: Int64Array) -> StepOutput:
        """Feed tokens (B, T), T >= 1, to the rows of `state` and advance them by T."""
        tokens = np.ascontiguousarray(tokens, dtype=np.int64)
        if tokens.ndim != 2 or tokens.shape[0] != state.rows or tokens.shape[1] < 1:
            raise ValueError(f"tokens have shape {tokens.shape}, wanted ({state.rows}, T >= 1)")
        count = tokens.shape[1]
        self._check_capacity(int(state.lengths.max(initial=0)) + count)
        batch, cuda, stream = state.batch, self._cuda, self._decoder_step.stream
        positions_at = aligned(tokens.nbytes)
        end = positions_at + state.rows * INT64
        batch.inputs_staging[: tokens.nbytes] = tokens.reshape(-1).view(np.uint8)
        batch.inputs_staging[positions_at:end] = np.ascontiguousarray(state.lengths).view(np.uint8)
        with self._decoder_step.lock:
            cuda.make_wait(stream, batch.encoded)
            cuda.copy(batch.inputs, batch.inputs_staging.ctypes.data, end, stream)
            outputs, size = self._enqueue_step(state, count, batch.inputs, batch.inputs + positions_at)
            cuda.copy(batch.outputs_staging.ctypes.data, outputs, size, stream)
            cuda.record(batch.stepped, stream)
        state.advance(count)
        cuda.wait_for(batch.stepped)
        return self._outputs(batch.outputs_staging, state.rows, count)

    def greedy(self, state: DeviceState, *, stop: int, max_steps: int) -> StepOutput:
        """Feed `<bos>` and then each row's most probable token, until all have said `stop` or `max_steps` are done.

        Log-probabilities (B, S, V) and tokens (B, S) of the S steps that were looked at. What a row says after its
        `stop` means nothing. Uses the state up.
        """
        self._check_capacity(max_steps)
        batch, cuda, stream = state.batch, self._cuda, self._decoder_step.stream
        with self._decoder_step.lock:
            cuda.make_wait(stream, batch.encoded)
            cuda.copy(batch.outputs[1 - state.parity], self._bos, state.rows * INT64, stream)
        said: list[StepOutput] = []
        running = np.ones(state.rows, dtype=bool)
        looks: collections.deque[tuple[Any, range]] = collections.deque()
        for number, steps in enumerate(_in_pieces(max_steps, self._look_every)):
            for step in steps:
                self._enqueue_greedy_step(state, step)
            event = batch.looks[number % 2]
            cuda.record(event, stream)
            looks.append((event, steps))
            # The device has these steps to work at while the host waits for the ones before.
            while len(looks) > (0 if steps.stop == max_steps else 1):
                event, seen = looks.popleft()
                cuda.wait_for(event)
                for step in seen:
                    said.append(self._outputs(batch.history_staging[step * batch.history_stride :], state.rows, 1))
                    running &= said[-1].next_token[:, 0] != stop
                if not running.any():
                    break
            if not running.any():
                break
        state.release()
        return StepOutput(
            np.concatenate([output.log_probs for output in said], axis=1),
            np.concatenate([output.next_token for output in said], axis=1),
        )

    def _enqueue_greedy_step(self, state: DeviceState, step: int) -> None:
        batch, cuda, stream = state.batch, self._cuda, self._decoder_step.stream
        with self._decoder_step.lock:
            positions = self._positions + step * self.max_rows * INT64
            cuda.copy(batch.position, positions, state.rows * INT64, stream)
            before = batch.outputs[1 - state.parity]
            outputs, size = self._enqueue_step(state, 1, before, batch.position)
            cuda.copy(batch.history_staging.ctypes.data + step * batch.history_stride, outputs, size, stream)
        state.advance(1)

    def _enqueue_step(self, state: DeviceState, count: int, tokens: Address, position: Address) -> tuple[Address, int]:
        """One decoder step of `count` tokens a row; where its outputs will be, and their bytes."""
        d, batch, rows = self._dimensions, state.batch, state.rows
        profile = 2 * self._profile(rows) + (count > 1)  # see engine_folder.graph_profiles
        outputs = batch.outputs[state.parity]
        pairs = 2 * d.layers
        self._decoder_step.run(
            profile,
            {
                "tokens": (rows, count),
                "position": (rows,),
                "self_kv": (pairs, rows, d.heads, d.capacity, d.head_size),
                "cross_kv": (pairs, rows, d.heads, d.image_tokens, d.head_size),
            },
            {
                "tokens": tokens,
                "position": position,
                "self_kv": batch.self_kv[1 - state.parity],
                "cross_kv": batch.cross_kv,
                "next_token": outputs,
                "log_probs": outputs + aligned(rows * count * INT64),
                "self_kv_out": batch.self_kv[state.parity],
            },
        )
        return outputs, outputs_size(rows, count, d.vocabulary)

    def _outputs(self, staging: npt.NDArray[np.uint8], rows: int, count: int) -> StepOutput:
        """Copies of what a step wrote, out of the staging that the next one writes."""
        vocabulary = self._dimensions.vocabulary
        log_probs_at = aligned(rows * count * INT64)
        log_probs = staging[log_probs_at : log_probs_at + rows * count * vocabulary * FLOAT32].view(np.float32)
        next_token = staging[: rows * count * INT64].view(np.int64)
        return StepOutput(log_probs.reshape(rows, count, vocabulary).copy(), next_token.reshape(rows, count).copy())

    def _check_capacity(self, tokens: int) -> None:
        # An SDK may drop the write in silence.
        if tokens > self._dimensions.capacity:
            raise BackendError(f"{tokens} tokens in a row, the cache holds {self._dimensions.capacity}")

    def gather(self, state: DeviceState, rows: Int64Array) -> None:
        """Make the rows of a state's buffers `buffers[rows]`, in another device batch where they are too many."""
        batch, cuda, stream = state.batch, self._cuda, self._decoder_step.stream
        target = batch if len(rows) <= batch.rows else self.pool.take(self._batches[self._profile(len(rows))].max)
        crops = state.crop_of_row
        same_crops = target is batch and np.array_equal(crops[rows], crops)
        with self._decoder_step.lock:
            cuda.make_wait(stream, batch.encoded)
            if target is not batch:
                cuda.make_wait(stream, target.encoded)
            # What was written last is read, so the pair's other buffer is free.
            source, free = batch.self_kv[1 - state.parity], target.self_kv[state.parity]
            self._gather(free, source, rows, state.rows, batch.self_row)
            state.parity = 1 - state.parity
            if not same_crops:  # rows of one crop are equal, and megabytes each
                cross_kv = batch.other_cross_kv() if target is batch else target.cross_kv
                self._gather(cross_kv, batch.cross_kv, rows, state.rows, batch.cross_row)
            if target is batch and not same_crops:
                batch.swap_cross_kv()
        if target is not batch:
            state.move_to(target)

    def _gather(self, target: Address, source: Address, rows: Int64Array, rows_before: int, row_bytes: int) -> None:
        """Rows of tensors (2L, B, ...): a row's pieces lie a tensor apart."""
        pieces = 2 * self._dimensions.layers
        for to, row in enumerate(rows.tolist()):
            self._cuda.copy_strided(
                (target + to * row_bytes, len(rows) * row_bytes),
                (source + row * row_bytes, rows_before * row_bytes),
                row_bytes,
                pieces,
                self._decoder_step.stream,
            )

    def close(self) -> None:
        """Release the device. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        for engine in (self._encoder, self._decoder_step):
            self._cuda.synchronise(engine.stream)
            engine.close()
        self._cuda.close()


def _in_pieces(steps: int, size: int) -> Iterator[range]:
    """`range(steps)` in pieces of `size`."""
    for start in range(0, steps, size):
        yield range(start, min(start + size, steps))
