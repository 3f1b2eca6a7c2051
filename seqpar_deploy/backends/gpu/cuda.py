"""The CUDA calls the backends on NVIDIA GPUs make, through cuda-python: addresses are integers, failures are one line.

The only file that imports cuda-python. Everything runs on the first visible GPU (`CUDA_VISIBLE_DEVICES` chooses it).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import BackendError, BackendUnavailableError

Address = int
ALIGNMENT = 256  # bytes; what TensorRT wants of tensor addresses, and what cudaMalloc gives

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


def cuda_runtime() -> Any:
    """cuda-python's module of runtime calls. Raises BackendUnavailableError."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise BackendUnavailableError(
            "backends on NVIDIA GPUs need cuda-python, which is not installed; pip install cuda-python"
        ) from None
    return runtime


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
        properties = _result(runtime, "cudaGetDeviceProperties", 0)
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
    """Memory, streams, events and graphs of one GPU. What it hands out is freed by `close`, or earlier by name.

    Copies and launches only enqueue; `synchronise` and `wait_for` are where the host waits.
    """

    def __init__(self, runtime: Any = None) -> None:
        self._runtime = cuda_runtime() if runtime is None else runtime
        self._device_memory: dict[Address, int] = {}
        self._pinned: list[Address] = []
        self._streams: list[Any] = []
        self._events: list[Any] = []

    def _call(self, name: str, *arguments: Any) -> Any:
        return _result(self._runtime, name, *arguments)

    # Memory

    def allocate(self, size: int) -> Address:
        """Device memory of `size` bytes. Raises BackendError with what is free where there is not enough."""
        address = int(self._call("cudaMalloc", max(1, size)))
        self._device_memory[address] = size
        return address

    def free(self, address: Address) -> None:
        del self._device_memory[address]
        self._call("cudaFree", address)

    @property
    def allocated(self) -> int:
        """Bytes of device memory held through this object."""
        return sum(self._device_memory.values())

    def pinned(self, size: int) -> npt.NDArray[np.uint8]:
        """Page-locked host memory (size,), which copies can read and write while the host goes on."""
        address = int(self._call("cudaHostAlloc", max(1, size), 0))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    # Work

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        made = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        self._streams.append(made)
        return made

    def event(self) -> Any:
        made = self._call("cudaEventCreateWithFlags", self._runtime.cudaEventDisableTiming)
        self._events.append(made)
        return made

    def copy(self, target: Address, source: Address, size: int, stream: Any) -> None:
        """Copy `size` bytes, to and from wherever the addresses lie."""
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
        """What `stream` does from here on waits for `event`; the host does not."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def wait_for(self, event: Any) -> None:
        """Block the host until `event` has come to pass."""
        self._call("cudaEventSynchronize", event)

    def synchronise(self, stream: Any) -> None:
        """Block the host until `stream` has nothing left to do."""
        self._call("cudaStreamSynchronize", stream)

    @contextlib.contextmanager
    def capturing(self, stream: Any) -> Iterator[list[Any]]:
        """Collect what the block enqueues on `stream` as a graph, which the list holds afterwards."""
        graphs: list[Any] = []
        # Other threads may allocate meanwhile: only what this thread does is looked at.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            yield graphs
        except BaseException:
            with contextlib.suppress(BackendError):
                self._call("cudaStreamEndCapture", stream)
            raise
        captured = self._call("cudaStreamEndCapture", stream)
        try:
            graphs.append(self._call("cudaGraphInstantiate", captured, 0))
        finally:
            self._call("cudaGraphDestroy", captured)

    def launch(self, graph: Any, stream: Any) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def forget(self, graph: Any) -> None:
        """Destroy a graph that is not running."""
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Wait for the device, and free everything. Safe to call twice."""
        for stream in self._streams:
            self._call("cudaStreamSynchronize", stream)
        for call, things in (
            ("cudaEventDestroy", self._events),
            ("cudaStreamDestroy", self._streams),
            ("cudaFree", list(self._device_memory)),
            ("cudaFreeHost", self._pinned),
        ):
            for thing in things:
                self._call(call, thing)
        self._events, self._streams, self._device_memory, self._pinned = [], [], {}, []


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


def _result(runtime: Any, name: str, *arguments: Any) -> Any:
    """What a call gives besides its error code. Raises BackendError."""
    error, *values = getattr(runtime, name)(*arguments)
    if int(error) == _OUT_OF_MEMORY:
        free, total = _memory(runtime)
        wanted = f"{arguments[0] / 2**20:.0f} MiB" if name == "cudaMalloc" else "memory"
        raise BackendError(
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
