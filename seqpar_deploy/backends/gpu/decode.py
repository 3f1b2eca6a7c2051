"""Decode on an NVIDIA GPU. Crops are uploaded, tokens and log-probabilities are downloaded, the rest stays there.

    host    crops ─┐                                                      ┌─ tokens, log-probabilities
    device         └─ encoder ── cross_kv ──┬── step ──┬── step ──┬── step ┘
                                      self_kv[0]  self_kv[1]  self_kv[0]   ...and so outputs[0], outputs[1]

A step reads the cache and the tokens that the previous step wrote, and writes the other buffer of each pair. While the
host reads the output of one step, the device computes the next. Encoding has its own lane, so another batch can be
encoded at the same time. `lanes.py` defines which thread may access which memory, and when.

TensorRT (`tensorrt.py`) or ONNX Runtime (`onnxruntime_cuda.py`) runs the graphs. Not yet measured on hardware: tests
run this file on stand-ins for CUDA, see tests/backends/gpu.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import Float32Array, Int64Array, StepOutput
from seqpar_deploy.backends.gpu.buffers import FLOAT32, INT64, Buffers, Lease, Pool, outputs_size, pooled_size
from seqpar_deploy.backends.gpu.calls import Calls
from seqpar_deploy.backends.gpu.cuda import Address, Cuda, aligned
from seqpar_deploy.backends.gpu.graph_runner import Engine, Executor
from seqpar_deploy.backends.gpu.lanes import Lane, Staging, Turn
from seqpar_deploy.backends.gpu.profiles import columns_read, encoder_profile, image_tokens, step_profile
from seqpar_deploy.backends.gpu.state import DeviceState
from seqpar_deploy.bundle import BatchProfile, Bundle
from seqpar_deploy.errors import BackendError
from seqpar_deploy.vocab import BOS

OpenGraph = Callable[[str, Turn], Executor]  # arguments: "encoder" or "decoder_step", a turn of its lane


class DeviceBackend:
    """Decode with two engines of any SDK. Threads may share it. One thread may use a state at a time."""

    device = "cuda"

    def __init__(
        self,
        bundle: Bundle,
        *,
        name: str,
        batches: Sequence[BatchProfile],
        cuda: Cuda,
        open_graph: OpenGraph,
        cuda_graphs: bool,
        pooled: bool,
    ) -> None:
        """`open_graph` opens the engines, built for the profiles `batches`. `close` closes `cuda`.

        `pooled`: whether the encoder returns it. Raises BackendError.
        """
        self.name = name
        self._dimensions, self._batches, self._cuda = bundle.dimensions, batches, cuda
        self._columns = columns_read(bundle)
        self._pooled = _pooled_values(bundle) if pooled else 0  # per row
        self._calls, self._closing, self._released = Calls(), threading.Lock(), False
        self._engines: list[Engine] = []
        with cuda.current():
            try:
                for graph in ("encoder", "decoder_step"):
                    lane = Lane(cuda)
                    with lane.turn() as turn:
                        executor = open_graph(graph, turn)
                    self._engines.append(
                        Engine(executor, cuda, name=graph, lane=lane, graphs=cuda_graphs, widths=len(self._columns))
                    )
                self._encoder, self._decoder_step = self._engines
                item = 2 if bundle.precision == "fp16" else 4
                lanes = [engine.lane for engine in self._engines]
                self.pool = Pool(cuda, lanes, self._dimensions, item, self._pooled)
                self._positions, self._bos = self._constants()
            except BaseException:
                self._release()
                raise

    @property
    def max_rows(self) -> int:
        """The largest batch in rows, from the engines' profiles."""
        return max(batch.max for batch in self._batches)

    def _constants(self) -> tuple[Address, Address]:
        """Upload constants: each position repeated max_rows times, and `<bos>` repeated max_rows times."""
        rows, capacity = self.max_rows, self._dimensions.capacity
        values = np.repeat(np.arange(capacity + 1, dtype=np.int64), rows)
        values[-rows:] = BOS
        address, staging = self._cuda.allocate(values.nbytes), Staging(self._cuda, values.nbytes)
        staging.write(values)
        with self._decoder_step.lane.turn() as turn:
            turn.upload(address, staging, values.nbytes)
        staging.free()
        return address, address + capacity * rows * INT64

    def _profile(self, rows: int) -> int:
        """Return the index of the smallest batch profile that fits `rows`."""
        fitting = [i for i, batch in enumerate(self._batches) if rows <= batch.max]
        if not fitting:
            sizes = ", ".join(f"{batch.min} to {batch.max}" for batch in self._batches)
            raise BackendError(
                f"a batch must have {sizes} rows for these engines, got {rows}; use a smaller batch size, or build "
                "larger engines with seqpar-export engine --batch"
            )
        return min(fitting, key=lambda i: self._batches[i].max)

    def _padded(self, rows: int) -> int:
        return padded_rows(rows, self._batches[self._profile(rows)])

    def _lease(self, rows: int) -> Lease:
        return self.pool.take(self._batches[self._profile(rows)].max)

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        with self._calls.call(), self._cuda.current():
            yield

    # Encoding

    def encode(self, crops: npt.NDArray[np.uint8]) -> DeviceState:
        """Start B sequences from prepared crops (B, H, W, 3) uint8. Returns before the device is done.

        Raises BackendError if B rows exceed the engines' profiles, W is no width of the bundle, memory runs out, or the
        backend is closed.
        """
        with self._call():
            rows, padded, columns = len(crops), self._padded(len(crops)), self._columns_of(crops)
            lease = self._lease(rows)
            batch = lease.batch
            batch.crops.write(crops)
            with self._encoder.lane.turn() as turn:
                buffers = turn.use(batch.device)
                turn.upload(buffers.crops, batch.crops, crops.nbytes)
                addresses = {"crops": buffers.crops, "cross_kv": buffers.cross_kv}
                self._encoder.run(
                    turn,
                    encoder_profile(self._profile(padded), self._columns, columns),
                    {"crops": (padded, *crops.shape[1:])},
                    addresses | ({"pooled": buffers.pooled} if batch.pooled else {}),
                )
                if batch.pooled:
                    # Kilobytes per row. Enqueued here, a reader waits for this encoder run alone: not for that of the
                    # next batch, which may already be enqueued, nor for decoder steps of other batches.
                    turn.download(batch.pooled, buffers.pooled, pooled_size(rows, self._pooled))
                # Empty slots are masked, but an infinity that another crop left there would become NaN in the sum.
                turn.clear(buffers.self_kv[1], 2 * self._dimensions.layers * padded * buffers.self_row)
            return DeviceState(self, lease, rows, padded, image_tokens(self._dimensions, columns))

    def _columns_of(self, crops: npt.NDArray[np.uint8]) -> int:
        """Return the width of prepared crops in patch columns."""
        d = self._dimensions
        widths = [columns * d.patch_size for columns in self._columns]
        if crops.ndim != 4 or crops.shape[1] != d.image_size or crops.shape[2] not in widths:
            raise BackendError(
                f"prepared crops must have shape (B, {d.image_size}, W, 3), with W of {', '.join(map(str, widths))}, "
                f"got {crops.shape}; prepare them with the bundle's preprocessing and trimming"
            )
        return int(crops.shape[2]) // d.patch_size

    def read_pooled(self, state: DeviceState) -> Float32Array | None:
        """Wait for the encoder, and return `pooled` of a state's crops, float32 (crops, 3d). None if it has none."""
        with self._call():
            staging = state.lease.batch.pooled
            if staging is None:
                return None
            values = staging.read(0, pooled_size(state.crops, self._pooled)).view(np.float32)
            return values.reshape(state.crops, self._pooled)

    # Decoding

    def step(self, state: DeviceState, tokens: Int64Array) -> StepOutput:
        """Feed tokens (B, T), T >= 1, to the rows of `state` and advance them by T."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.ndim != 2 or tokens.shape[0] != state.rows or tokens.shape[1] < 1:
            raise ValueError(f"tokens must have shape ({state.rows}, T >= 1), got {tokens.shape}")
        count, spare = tokens.shape[1], state.padded - state.rows
        self._check_capacity(int(state.lengths.max(initial=0)) + count)
        with self._call():
            batch = state.lease.batch
            wide = padded_tokens(count, self._dimensions.capacity - int(state.lengths.max(initial=0)))
            tokens = np.pad(tokens, ((0, spare), (0, wide - count)), constant_values=BOS)
            positions_at = aligned(tokens.nbytes)
            batch.inputs.write(tokens, np.pad(state.lengths, (0, spare)), at=(0, positions_at))
            with self._decoder_step.lane.turn() as turn:
                buffers = turn.use(batch.device)
                turn.upload(buffers.inputs, batch.inputs, positions_at + state.padded * INT64)
                self._enqueue_step(turn, buffers, state, wide, buffers.inputs, buffers.inputs + positions_at)
                turn.download(batch.outputs[state.parity], *self._outputs_of(buffers, state, wide))
            output = self._read(batch.outputs[state.parity], state, wide)
            state.advance(count)  # the slots of tokens that were added are masked, and overwritten later
            return StepOutput(output.log_probs[:, :count], output.next_token[:, :count])

    def greedy(self, state: DeviceState, *, stop: int, max_steps: int) -> StepOutput:
        """Feed `<bos>`, then each row's most probable token, until every row has emitted `stop`.

        Returns log-probabilities (B, S, V) and tokens (B, S) of S steps, at most `max_steps`. Ignore a row's values
        after its `stop`. The state cannot be used afterwards.
        """
        self._check_capacity(max_steps)
        emitted: list[StepOutput] = []
        first = state.parity
        running = np.ones(state.rows, dtype=bool)
        with self._call():
            for step in range(max_steps + 1):
                if step < max_steps:
                    self._enqueue_greedy_step(state, step)
                if step > 0:  # read the previous step while the device computes this one
                    emitted.append(self._read(state.lease.batch.outputs[(first + step - 1) % 2], state, 1))
                    running &= emitted[-1].next_token[:, 0] != stop
                    if not running.any():
                        break
            state.lease.release()
        return StepOutput(
            np.concatenate([output.log_probs for output in emitted], axis=1),
            np.concatenate([output.next_token for output in emitted], axis=1),
        )

    def _enqueue_greedy_step(self, state: DeviceState, step: int) -> None:
        batch = state.lease.batch
        with self._decoder_step.lane.turn() as turn:
            buffers = turn.use(batch.device)
            tokens = buffers.outputs[1 - state.parity]  # of the previous step
            if step == 0:
                turn.copy(tokens, self._bos, state.padded * INT64)
            turn.copy(buffers.position, self._positions + step * self.max_rows * INT64, state.padded * INT64)
            self._enqueue_step(turn, buffers, state, 1, tokens, buffers.position)
            turn.download(batch.outputs[state.parity], *self._outputs_of(buffers, state, 1))
        state.advance(1)

    def _enqueue_step(
        self, turn: Turn, buffers: Buffers, state: DeviceState, count: int, tokens: Address, position: Address
    ) -> None:
        """Enqueue one decoder step of `count` tokens per row."""
        d, rows = self._dimensions, state.padded
        outputs, pairs = buffers.outputs[state.parity], 2 * d.layers
        self._decoder_step.run(
            turn,
            step_profile(self._profile(rows), count),
            {
                "tokens": (rows, count),
                "position": (rows,),
                "self_kv": (pairs, rows, d.heads, d.capacity, d.head_size),
                "cross_kv": (pairs, rows, d.heads, state.image_tokens, d.head_size),
            },
            {
                "tokens": tokens,
                "position": position,
                "self_kv": buffers.self_kv[1 - state.parity],
                "cross_kv": buffers.cross_kv,
                "next_token": outputs,
                "log_probs": outputs + aligned(rows * count * INT64),
                "self_kv_out": buffers.self_kv[state.parity],
            },
        )

    def _outputs_of(self, buffers: Buffers, state: DeviceState, count: int) -> tuple[Address, int]:
        """Return the address of a step's outputs, and their bytes."""
        return buffers.outputs[state.parity], outputs_size(state.padded, count, self._dimensions.vocabulary)

    def _read(self, staging: Staging, state: DeviceState, count: int) -> StepOutput:
        """Wait for a step, and return its outputs."""
        vocabulary = self._dimensions.vocabulary
        next_token = staging.read(0, state.rows * count * INT64).view(np.int64)
        log_probs_at = aligned(state.padded * count * INT64)
        log_probs = staging.read(log_probs_at, state.rows * count * vocabulary * FLOAT32).view(np.float32)
        return StepOutput(log_probs.reshape(-1, count, vocabulary), next_token.reshape(-1, count))

    def _check_capacity(self, tokens: int) -> None:
        # An SDK may silently drop a write past the end.
        if tokens > self._dimensions.capacity:
            raise BackendError(
                f"rows must have at most {self._dimensions.capacity} tokens, the capacity of the cache, got {tokens}"
            )

    def gather(self, state: DeviceState, rows: Int64Array) -> None:
        """Replace the rows of a state's buffers with `buffers[rows]`, in another batch if this one is too small."""
        crops, padded = state.crop_of_row, self._padded(len(rows))
        same_layout = padded == state.padded
        if same_layout and np.array_equal(rows, np.arange(len(rows))):
            return
        same_crops = same_layout and np.array_equal(crops[rows], crops[: len(rows)])
        with self._call():
            lease = state.lease if len(rows) <= state.lease.batch.rows else self._lease(len(rows))
            moves = lease is not state.lease
            if moves:
                state.keep_pooled()
            with self._decoder_step.lane.turn() as turn:
                source, target = turn.use(state.lease.batch.device), turn.use(lease.batch.device)
                # The last step wrote one buffer of the pair, so the other is free.
                free, written = target.self_kv[state.parity], source.self_kv[1 - state.parity]
                if not same_crops:  # rows of one crop have equal cross_kv, megabytes per row
                    cross_kv = target.cross_kv if moves else target.other_cross_kv()
                    row = source.cross_row(state.image_tokens)
                    self._gather(turn, (cross_kv, padded), (source.cross_kv, state.padded), rows, row)
                self._gather(turn, (free, padded), (written, state.padded), rows, source.self_row)
                if not same_crops and not moves:
                    target.swap_cross_kv()
            before, state.lease = state.lease, lease
            state.padded, state.parity = padded, 1 - state.parity
            if moves:
                before.release()

    def _gather(
        self, turn: Turn, target: tuple[Address, int], source: tuple[Address, int], rows: Int64Array, row_bytes: int
    ) -> None:
        """Copy rows of tensors (2L, B, ...), given as (address, B). Consecutive rows take one copy."""
        for to, row, count in runs(rows):
            turn.copy_strided(
                (target[0] + to * row_bytes, target[1] * row_bytes),
                (source[0] + row * row_bytes, source[1] * row_bytes),
                count * row_bytes,
                2 * self._dimensions.layers,
            )

    def close(self) -> None:
        """Wait for running calls, and release the device. Safe to call twice, and from any thread.

        Raises BackendError if a call does not end within two minutes.
        """
        with self._closing:
            if not self._released:
                self._calls.end()
                self._release()

    def _release(self) -> None:
        """Release all resources, even if the CUDA context is corrupt and every call fails."""
        self._released = True
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(BackendError):
                stack.enter_context(self._cuda.current())
            for engine in self._engines:
                with contextlib.suppress(BackendError), engine.lane.turn() as turn:
                    turn.synchronise()
            for engine in self._engines:
                engine.close()
            self._cuda.close()


def _pooled_values(bundle: Bundle) -> int:
    """Return the values per row of the encoder's output `pooled`."""
    outputs = bundle.manifest["graphs"]["encoder"]["outputs"]
    return next(int(output["shape"][1]) for output in outputs if output["name"] == "pooled")


def padded_rows(rows: int, batch: BatchProfile) -> int:
    """Round a batch up to a size the device computes: 1 to 8, 10, 12, 14, 16, 20, 24, ..., 64, 80, ...

    Each size needs its own CUDA graphs and execution context. Four sizes per doubling are few enough to keep them all,
    and waste at most a fifth of the encoder's work. Powers of two would waste up to half.
    """
    step = 1 << max(0, (rows - 1).bit_length() - 3)
    return min(max(-(-rows // step) * step, batch.min), batch.max)


def padded_tokens(tokens: int, room: int) -> int:
    """Round the tokens per row of a step up to a power of two, if there is room for it in the cache.

    Drafts have any length, and each number of tokens needs its own CUDA graphs and execution context.
    """
    padded: int = 1 << (tokens - 1).bit_length()
    return padded if padded <= room else tokens


def runs(rows: Int64Array) -> Iterator[tuple[int, int, int]]:
    """Yield (place, first row, count) per run of consecutive rows: [3, 4, 0] -> (0, 3, 2), (2, 0, 1)."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            yield start, int(rows[start]), end - start
            start = end
