"""The CUDA calls that the backends on NVIDIA GPUs make, through cuda-python. A failed call raises one line.

The only file that imports cuda-python. Everything runs on the first visible GPU (`CUDA_VISIBLE_DEVICES` chooses it).
Addresses are integers.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import BackendError, BackendUnavailableError

Address = int
ALIGNMENT = 256  # bytes: TensorRT requires it of tensor addresses, and cudaMalloc returns such addresses
DEVICE = 0

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation

_log = logging.getLogger(__name__)


class GpuOutOfMemoryError(BackendError):
    """The GPU has too little free memory, or the host too little that can be page-locked."""


def cuda_runtime() -> Any:
    """cuda-python's module of runtime calls. Raises BackendUnavailableError."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise BackendUnavailableError(
            "backends on NVIDIA GPUs need cuda-python, which is not installed; pip install 'cuda-python>=12.9.1'"
        ) from None
    return runtime


def native_handle(thing: Any) -> int:
    """The number behind a handle of cuda-python, for a library that wants the number."""
    from cuda.bindings.utils import get_cuda_native_handle

    return int(get_cuda_native_handle(thing))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU in use: its name, compute capability as `9.0`, memory in bytes, and the driver's CUDA version, 13010."""

    name: str
    compute_capability: str
    memory: int
    driver: int


def find_gpu(runtime: Any = None) -> Gpu:
    """The first visible GPU. Raises BackendUnavailableError if there is none, or its driver is missing or too old."""
    runtime = cuda_runtime() if runtime is None else runtime
    try:
        count = _result(runtime, "cudaGetDeviceCount")
        if count < 1:
            raise BackendError("none is visible")
        properties = _result(runtime, "cudaGetDeviceProperties", DEVICE)
        driver = _result(runtime, "cudaDriverGetVersion")
    except BackendError as error:
        raise BackendUnavailableError(
            f"no usable NVIDIA GPU: {error}; look at nvidia-smi, the driver must be as new as cuda-python"
        ) from None
    name = properties.name
    return Gpu(
        name=name.decode() if isinstance(name, bytes) else str(name),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory=int(properties.totalGlobalMem),
        driver=int(driver),
    )


class Cuda:
    """Memory, streams, events and graphs of one GPU. `close` frees all that has not been freed before.

    Copies and launches only enqueue; the host waits in `synchronise` and `wait_for`. Streams belong to `lanes.Lane`.
    """

    def __init__(self, runtime: Any = None) -> None:
        self._runtime = cuda_runtime() if runtime is None else runtime
        self._held: dict[tuple[str, int], Any] = {}  # (the call that destroys it, its address or handle) -> it
        self._sizes: dict[Address, int] = {}  # of device memory
        # Only the thread that captures is forbidden to allocate (CUDA's thread-local mode), but an SDK may capture or
        # allocate in a way of its own. Both are rare, so they exclude each other in all threads.
        self._exclusive = threading.Lock()

    def _call(self, name: str, *arguments: Any) -> Any:
        return _result(self._runtime, name, *arguments)

    def _hold(self, destroy: str, thing: Any) -> Any:
        self._held[destroy, _key(thing)] = thing
        return thing

    def _destroy(self, destroy: str, thing: Any) -> None:
        if self._held.pop((destroy, _key(thing)), None) is not None:
            self._call(destroy, thing)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the current one of this thread within the block: the application may use another."""
        before = self._call("cudaGetDevice")
        if before == DEVICE:
            yield
            return
        self._call("cudaSetDevice", DEVICE)
        try:
            yield
        finally:
            self._try("cudaSetDevice", before)  # it fails where the context is spoilt, and hides no other error

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """No other thread allocates or captures within the block."""
        with self._exclusive:
            yield

    # Memory

    def allocate(self, size: int) -> Address:
        """Device memory of `size` bytes. Raises GpuOutOfMemoryError."""
        with self._exclusive:
            address = int(self._hold("cudaFree", self._call("cudaMalloc", max(1, size))))
        self._sizes[address] = size
        return address

    def free(self, address: Address) -> None:
        """Free device memory that no enqueued work uses."""
        self._sizes.pop(address, None)
        with self._exclusive:
            self._destroy("cudaFree", address)

    @property
    def allocated(self) -> int:
        """Bytes of device memory held through this object."""
        return sum(self._sizes.values())

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """Page-locked host memory (size,). Raises GpuOutOfMemoryError."""
        with self._exclusive:
            address = int(self._hold("cudaFreeHost", self._call("cudaHostAlloc", max(1, size), 0)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: npt.NDArray[np.uint8]) -> None:
        """Free page-locked memory that no enqueued work uses and that the host does not touch again."""
        with self._exclusive:
            self._destroy("cudaFreeHost", memory.ctypes.data)

    # Work

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self._hold(
            "cudaStreamDestroy", self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        )

    def event(self, *, host_waits: bool = False) -> Any:
        """An event. If the host will wait for it, the waiting thread sleeps: spinning would take a core."""
        flags = self._runtime.cudaEventDisableTiming | (self._runtime.cudaEventBlockingSync if host_waits else 0)
        return self._hold("cudaEventDestroy", self._call("cudaEventCreateWithFlags", flags))

    def free_event(self, event: Any) -> None:
        self._destroy("cudaEventDestroy", event)

    def copy(self, target: Address, source: Address, size: int, stream: Any) -> None:
        """Copy `size` bytes, between device and host memory in any direction."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy_strided(
        self, target: tuple[Address, int], source: tuple[Address, int], width: int, height: int, stream: Any
    ) -> None:
        """Copy `height` pieces of `width` bytes between (address, bytes from one piece to the next)."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call("cudaMemcpy2DAsync", *target, *source, width, height, kind, stream)

    def clear(self, target: Address, size: int, stream: Any) -> None:
        self._call("cudaMemsetAsync", target, 0, size, stream)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cudaEventRecord", event, stream)

    def make_wait(self, stream: Any, event: Any) -> None:
        """Work enqueued on `stream` from here on waits for `event`; the host does not."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def wait_for(self, event: Any) -> None:
        """Block the host until the work before `event` is done; at once if it was never recorded."""
        self._call("cudaEventSynchronize", event)

    def synchronise(self, stream: Any) -> None:
        """Block the host until all work enqueued on `stream` is done."""
        self._call("cudaStreamSynchronize", stream)

    @contextlib.contextmanager
    def capturing(self, stream: Any) -> Iterator[list[Any]]:
        """Record the work that the block enqueues on `stream` in a graph, which the list holds afterwards."""
        graphs: list[Any] = []
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with self._exclusive:
            self._call("cudaStreamBeginCapture", stream, mode)
            try:
                yield graphs
            except BaseException:
                self._abandon_capture(stream)
                raise
            captured = self._call("cudaStreamEndCapture", stream)
            try:
                # An SDK that worked on another GPU or stream leaves a graph that does nothing, and says nothing.
                if not self._call("cudaGraphGetNodes", captured)[1]:
                    raise BackendError("the capture recorded no work")
                executable = self._call("cudaGraphInstantiate", captured, 0)
                graphs.append(self._hold("cudaGraphExecDestroy", executable))
            finally:
                self._call("cudaGraphDestroy", captured)

    def _abandon_capture(self, stream: Any) -> None:
        with contextlib.suppress(BackendError):  # an invalidated capture ends with an error and without a graph
            self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", stream))

    def launch(self, graph: Any, stream: Any) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Destroy a graph that is not running."""
        self._destroy("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Wait for the device, and free everything. Safe to call twice.

        Does not raise: after an error that spoils the CUDA context, each call fails, and the others are still made.
        """
        failures = []
        for (destroy, _), thing in self._held.items():
            if destroy == "cudaStreamDestroy":
                failures.append(self._try("cudaStreamSynchronize", thing))
        order = ("cudaGraphExecDestroy", "cudaEventDestroy", "cudaStreamDestroy", "cudaFree", "cudaFreeHost")
        for key in sorted(self._held, key=lambda key: order.index(key[0])):
            failures.append(self._try(key[0], self._held[key]))
        self._held.clear()
        self._sizes.clear()
        if said := [failure for failure in failures if failure]:
            _log.warning("the GPU was not released cleanly: %s", said[0])

    def _try(self, name: str, *arguments: Any) -> str | None:
        try:
            self._call(name, *arguments)
        except BackendError as error:
            return str(error)
        return None


def buffer_plan(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Offsets of buffers of these sizes in one allocation, each aligned, and the bytes in all."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += aligned(size)
    return offsets, end


def aligned(size: int) -> int:
    """`size` rounded up to the alignment of tensor addresses."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _key(thing: Any) -> int:
    return thing if isinstance(thing, int) else native_handle(thing)


def _result(runtime: Any, name: str, *arguments: Any) -> Any:
    """The values that a call returns after its error code. Raises BackendError."""
    error, *values = getattr(runtime, name)(*arguments)
    if int(error) == _OUT_OF_MEMORY:
        free, total = _memory(runtime)
        wanted = f"{arguments[0] / 2**20:.0f} MiB" if name == "cudaMalloc" else "memory"
        raise GpuOutOfMemoryError(
            f"the GPU is out of memory: {name} wanted {wanted}, {free / 2**20:.0f} of {total / 2**20:.0f} MiB free; "
            "build engines for smaller batches, or end what else runs on it"
        )
    if int(error) != 0:
        _, text = runtime.cudaGetErrorString(error)
        said = text.decode() if isinstance(text, bytes) else str(text)
        raise BackendError(f"{name} failed: {said} (CUDA error {int(error)})")
    return values[0] if len(values) == 1 else tuple(values)


def _memory(runtime: Any) -> tuple[int, int]:
    error, free, total = runtime.cudaMemGetInfo()
    return (int(free), int(total)) if int(error) == 0 else (0, 0)
