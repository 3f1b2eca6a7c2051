"""CUDA calls: what is freed where something fails, captures, and the current device."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from cuda.bindings import runtime, utils
from fakes.cuda import FakeCuda

from seqpar_deploy.backends.gpu.cuda import Cuda, GpuOutOfMemoryError, native_handle
from seqpar_deploy.errors import BackendError


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda(devices=2)


@pytest.fixture
def cuda(fake: FakeCuda) -> Cuda:
    return Cuda(fake)


def capture(cuda: Cuda, stream: Any, address: int) -> Any:
    with cuda.capturing(stream) as graphs:
        cuda.clear(address, 8, stream)
    return graphs[0]


def test_close_frees_everything_once(cuda: Cuda, fake: FakeCuda) -> None:
    stream, address = cuda.stream(), cuda.allocate(8)
    cuda.pinned(8)
    cuda.free_event(cuda.event())
    cuda.event()
    capture(cuda, stream, address)
    cuda.clear(address, 8, stream)  # under way when it is closed
    cuda.close()
    cuda.close()
    assert fake.leaks() == []
    assert fake.check() == []
    assert cuda.allocated == 0


def test_close_goes_on_after_an_error_that_spoils_the_context(
    cuda: Cuda, fake: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    stream, address = cuda.stream(), cuda.allocate(8)
    capture(cuda, stream, address)
    fake.lose_device()
    cuda.close()
    assert fake.leaks() == []
    (record,) = caplog.records
    assert "719" in record.getMessage()


@pytest.mark.parametrize("failing", ["cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphGetNodes"])
def test_a_failed_capture_leaves_nothing_and_the_stream_goes_on(cuda: Cuda, fake: FakeCuda, failing: str) -> None:
    stream, address = cuda.stream(), cuda.allocate(8)
    fake.fail_next(failing, 1)
    with pytest.raises(BackendError, match=failing):
        capture(cuda, stream, address)
    assert [leak for leak in fake.leaks() if "graph" in leak] == []
    cuda.launch(capture(cuda, stream, address), stream)
    cuda.synchronise(stream)
    assert fake.check() == []


def test_an_error_within_a_capture_ends_it(cuda: Cuda, fake: FakeCuda) -> None:
    stream, address = cuda.stream(), cuda.allocate(8)
    with pytest.raises(BackendError, match="cudaMemsetAsync"), cuda.capturing(stream):
        cuda.clear(0xBAD00, 8, stream)
    fake.violations.clear()  # of what the error was
    assert [leak for leak in fake.leaks() if "graph" in leak] == []
    capture(cuda, stream, address)
    assert fake.check() == []


def test_a_capture_that_recorded_nothing_is_refused(cuda: Cuda, fake: FakeCuda) -> None:
    """As when an SDK worked on another GPU: replaying it would do nothing, silently."""
    with pytest.raises(BackendError, match=r"captured .*got none"), cuda.capturing(cuda.stream()):
        pass
    assert [leak for leak in fake.leaks() if "graph" in leak] == []


def test_other_threads_allocate_after_a_capture(cuda: Cuda, fake: FakeCuda) -> None:
    stream, address = cuda.stream(), cuda.allocate(8)
    allocated: list[int] = []
    other = threading.Thread(target=lambda: allocated.append(cuda.allocate(8)))
    with cuda.capturing(stream):
        cuda.clear(address, 8, stream)
        other.start()
        other.join(0.1)
        assert allocated == []
    other.join(10)
    assert len(allocated) == 1
    assert fake.check() == []


def test_this_gpu_is_current_within_calls_and_the_applications_after_them(cuda: Cuda, fake: FakeCuda) -> None:
    stream, address = cuda.stream(), cuda.allocate(8)
    fake.cudaSetDevice(1)  # as torch.cuda.set_device does
    with cuda.current():
        cuda.clear(address, 8, stream)
    assert fake.cudaGetDevice()[1] == 1
    with pytest.raises(BackendError, match="cudaEventRecord"), cuda.current():
        cuda.record(runtime.cudaEvent_t(99), stream)
    assert fake.cudaGetDevice()[1] == 1
    fake.violations.clear()
    with cuda.current():
        cuda.synchronise(stream)
    assert fake.check() == []


def test_threads_that_wait_for_events_sleep(cuda: Cuda, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[int] = []
    create = fake.cudaEventCreateWithFlags
    monkeypatch.setattr(fake, "cudaEventCreateWithFlags", lambda given: (flags.append(given), create(given))[1])
    cuda.event(host_waits=True)
    cuda.event()
    assert flags == [runtime.cudaEventBlockingSync | runtime.cudaEventDisableTiming, runtime.cudaEventDisableTiming]


def test_handles_become_numbers_without_the_deprecated_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(utils, "get_cuda_native_handle", lambda handle: (asked.append(handle), 5)[1])
    stream = runtime.cudaStream_t(5)
    assert native_handle(stream) == 5
    assert asked == [stream]


@pytest.mark.parametrize("call", ["allocate", "pinned"])
def test_no_memory_is_one_line_with_what_is_free(cuda: Cuda, fake: FakeCuda, call: str) -> None:
    fake.fail_next({"allocate": "cudaMalloc", "pinned": "cudaHostAlloc"}[call], 2)
    with pytest.raises(GpuOutOfMemoryError, match=r"out of memory.*16384 of 16384 MiB") as caught:
        getattr(cuda, call)(1 << 20)
    assert "\n" not in str(caught.value)
    assert cuda.allocated == 0
