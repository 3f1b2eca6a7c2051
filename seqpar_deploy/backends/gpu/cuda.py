"""The CUDA calls of the backends on NVIDIA GPUs, through cuda-python. A failed call raises a one-line error.

No other file imports cuda-python. All work runs on the first visible GPU, which `CUDA_VISIBLE_DEVICES` selects.
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
    """Raised if the GPU has too little free memory, or the host too little memory that can be page-locked."""


def cuda_runtime() -> Any:
    """Import cuda-python's runtime module. Raises BackendUnavailableError."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise BackendUnavailableError(
            "cuda-python, which the NVIDIA backends need, is not installed; pip install 'cuda-python>=12.9.1'"
        ) from None
    return runtime


def native_handle(thing: Any) -> int:
    """Return the address in a cuda-python handle, for libraries that take an integer."""
    from cuda.bindings.utils import get_cuda_native_handle

    return int(get_cuda_native_handle(thing))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """Describe the GPU in use.

    Attributes:
        name: The device name, for example `NVIDIA H100`.
        compute_capability: For example `9.0`.
        memory: Bytes of device memory.
        driver: The CUDA version of the driver, for example 13010 for 13.1.
    """

    name: str
    compute_capability: str
    memory: int
    driver: int


def find_gpu(runtime: Any = None) -> Gpu:
    """Find the first visible GPU. Raises BackendUnavailableError if there is none, or no driver that is new enough."""
    runtime = cuda_runtime() if runtime is None else runtime
    try:
        count = _result(runtime, "cudaGetDeviceCount")
        if count < 1:
            raise BackendError("none is visible")
        properties = _result(runtime, "cudaGetDeviceProperties", DEVICE)
        driver = _result(runtime, "cudaDriverGetVersion")
    except BackendError as error:
        raise BackendUnavailableError(
            f"no usable NVIDIA GPU: {error}; check nvidia-smi, the driver must support cuda-python's CUDA version"
        ) from None
    name = properties.name
    return Gpu(
        name=name.decode() if isinstance(name, bytes) else str(name),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory=int(properties.totalGlobalMem),
        driver=int(driver),
    )


class Cuda:
    """Manage memory, streams, events and graphs of one GPU. `close` frees those that are left.

    Copies and launches only enqueue work. The host waits in `synchronise` and `wait_for`. Streams belong to
    `lanes.Lane`.
    """

    def __init__(self, runtime: Any = None) -> None:
        self._runtime = cuda_runtime() if runtime is None else runtime
        self._held: dict[tuple[str, int], Any] = {}  # (the call that destroys it, its address or handle) -> it
        self._sizes: dict[Address, int] = {}  # of device memory
        # In CUDA's thread-local mode only the capturing thread may not allocate, but SDKs also capture and allocate by
        # themselves. Both are rare, so they exclude each other across all threads.
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
        """Make this GPU the thread's current one during the block, since the application may use another."""
        before = self._call("cudaGetDevice")
        if before == DEVICE:
            yield
            return
        self._call("cudaSetDevice", DEVICE)
        try:
            yield
        finally:
            self._try("cudaSetDevice", before)  # fails if the context is corrupt: do not hide the original error

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads from allocating and capturing during the block."""
        with self._exclusive:
            yield

    # Memory

    def allocate(self, size: int) -> Address:
        """Allocate `size` bytes of device memory. Raises GpuOutOfMemoryError."""
        with self._exclusive:
            address = int(self._hold("cudaFree", self._call("cudaMalloc", max(1, size))))
        self._sizes[address] = size
        return address

    def free(self, address: Address) -> None:
        """Free device memory. No enqueued work may still use it."""
        self._sizes.pop(address, None)
        with self._exclusive:
            self._destroy("cudaFree", address)

    @property
    def allocated(self) -> int:
        """Bytes of device memory allocated through this object."""
        return sum(self._sizes.values())

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """Allocate page-locked host memory, uint8 (size,). Raises GpuOutOfMemoryError."""
        with self._exclusive:
            address = int(self._hold("cudaFreeHost", self._call("cudaHostAlloc", max(1, size), 0)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: npt.NDArray[np.uint8]) -> None:
        """Free page-locked memory. Neither enqueued work nor the host may use it afterwards."""
        with self._exclusive:
            self._destroy("cudaFreeHost", memory.ctypes.data)

    # Work

    def stream(self) -> Any:
        """Create a stream that does not synchronise with the default stream."""
        return self._hold(
            "cudaStreamDestroy", self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        )

    def event(self, *, host_waits: bool = False) -> Any:
        """Create an event. With `host_waits` a waiting host thread sleeps, since spinning would occupy a core."""
        flags = self._runtime.cudaEventDisableTiming | (self._runtime.cudaEventBlockingSync if host_waits else 0)
        return self._hold("cudaEventDestroy", self._call("cudaEventCreateWithFlags", flags))

    def free_event(self, event: Any) -> None:
        self._destroy("cudaEventDestroy", event)

    def copy(self, target: Address, source: Address, size: int, stream: Any) -> None:
        """Copy `size` bytes between device and host memory, in any direction."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy_strided(
        self, target: tuple[Address, int], source: tuple[Address, int], width: int, height: int, stream: Any
    ) -> None:
        """Copy `height` rows of `width` bytes. `target` and `source` are (address, stride in bytes)."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self._call("cudaMemcpy2DAsync", *target, *source, width, height, kind, stream)

    def clear(self, target: Address, size: int, stream: Any) -> None:
        self._call("cudaMemsetAsync", target, 0, size, stream)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cudaEventRecord", event, stream)

    def make_wait(self, stream: Any, event: Any) -> None:
        """Make later work on `stream` wait for `event`. The host does not wait."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def wait_for(self, event: Any) -> None:
        """Block the host until the work before `event` is done. Returns at once if it was never recorded."""
        self._call("cudaEventSynchronize", event)

    def synchronise(self, stream: Any) -> None:
        """Block the host until all work enqueued on `stream` is done."""
        self._call("cudaStreamSynchronize", stream)

    @contextlib.contextmanager
    def capturing(self, stream: Any) -> Iterator[list[Any]]:
        """Capture the work that the block enqueues on `stream` in a graph, and append it to the yielded list."""
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
                # An SDK that worked on another GPU or stream leaves an empty graph without an error.
                if not self._call("cudaGraphGetNodes", captured)[1]:
                    raise BackendError("the captured CUDA graph must have nodes, got none")
                executable = self._call("cudaGraphInstantiate", captured, 0)
                graphs.append(self._hold("cudaGraphExecDestroy", executable))
            finally:
                self._call("cudaGraphDestroy", captured)

    def _abandon_capture(self, stream: Any) -> None:
        with contextlib.suppress(BackendError):  # an invalidated capture ends with an error and no graph
            self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", stream))

    def launch(self, graph: Any, stream: Any) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Destroy a graph. It may not be running."""
        self._destroy("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Wait for the device, and free all resources. Safe to call twice.

        Does not raise. If the CUDA context is corrupt, every call fails, but all are attempted.
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
        if failed := [failure for failure in failures if failure]:
            _log.warning("releasing the GPU failed: %s", failed[0])

    def _try(self, name: str, *arguments: Any) -> str | None:
        try:
            self._call(name, *arguments)
        except BackendError as error:
            return str(error)
        return None


def buffer_plan(sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Return the aligned offset of each buffer in one allocation, and the total bytes."""
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end += aligned(size)
    return offsets, end


def aligned(size: int) -> int:
    """Round `size` up to the alignment of tensor addresses."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _key(thing: Any) -> int:
    return thing if isinstance(thing, int) else native_handle(thing)


def _result(runtime: Any, name: str, *arguments: Any) -> Any:
    """Make a call, and return its values without the error code. Raises BackendError."""
    error, *values = getattr(runtime, name)(*arguments)
    if int(error) == _OUT_OF_MEMORY:
        free, total = _memory(runtime)
        size = f" {arguments[0] / 2**20:.0f} MiB" if name == "cudaMalloc" else ""
        raise GpuOutOfMemoryError(
            f"the GPU is out of memory: {name}{size} failed, {free / 2**20:.0f} of {total / 2**20:.0f} MiB are free; "
            "build engines for smaller batches, or stop other programs on this GPU"
        )
    if int(error) != 0:
        _, text = runtime.cudaGetErrorString(error)
        message = text.decode() if isinstance(text, bytes) else str(text)
        raise BackendError(f"{name} failed: {message} (CUDA error {int(error)})")
    return values[0] if len(values) == 1 else tuple(values)


def _memory(runtime: Any) -> tuple[int, int]:
    error, free, total = runtime.cudaMemGetInfo()
    return (int(free), int(total)) if int(error) == 0 else (0, 0)
