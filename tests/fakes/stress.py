"""One schedule of the stress test: a backend for NVIDIA GPUs on stand-ins, threads that decode with it, and what may go
wrong meanwhile. A seed decides everything.

The tokens must be the host backend's, always. An error is no fault where memory ran out, a capture failed or the
backend was closed; a wrong token, a leak, a deadlock, or a call that hardware would not forgive is one.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from fakes.cuda import FakeCuda
from fakes.graphs import Execution, RunGraph, session_of
from fakes.jobs import PROFILES, RUNTIMES, Material, Rig, close, go_on, plan, work
from fakes.memory import POISON
from fakes.schedule import Schedule, scheduled
from fakes.streams import Operation
from fakes.tensorrt import FakeTensorRt

from seqpar_deploy import Bundle
from seqpar_deploy.backends.gpu import graph_runner
from seqpar_deploy.backends.gpu.lanes import Turn
from seqpar_deploy.backends.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend, SessionExecutor
from seqpar_deploy.backends.gpu.tensorrt import TensorRtBackend
from seqpar_deploy.errors import BackendError

_IN_CAPTURES = frozenset({"cudaStreamEndCapture", "capture by the SDK"})
MODULES = "seqpar_deploy.backends.gpu."  # whose locks the schedule knows


@dataclasses.dataclass
class Outcome:
    """What a schedule did, and why it failed if it did: each reason as `kind: text`."""

    seed: int
    reasons: list[str]
    counts: collections.Counter[str]

    @property
    def kinds(self) -> set[str]:
        return {reason.partition(":")[0] for reason in self.reasons}


def run_schedule(
    material: Material, seed: int, *, allow: tuple[str, ...] = (), prepare: Callable[[Rig], object] = lambda rig: None
) -> Outcome:
    """Run one schedule. Reasons of a kind in `allow` do not count; `prepare` may change the rig first."""
    choose = random.Random(seed)
    schedule = Schedule(
        seed,
        switch=choose.choice((0.03, 0.1, 0.3, 0.6)),
        collect=choose.choice((0.0, 0.002, 0.01)),
        sleep=choose.choice((0.0, 0.01, 0.03)),
    )
    if choose.random() < 0.6:
        schedule.linger_at = _IN_CAPTURES
    with scheduled(schedule, MODULES), _surroundings(choose):
        rig = _rig(material, choose, schedule)
        rig.trt.allow_stale_graphs = "stale" in allow
        _inject(rig)
        if _open(rig, prepare):
            plans = [plan(rig) for _ in range(choose.choice((1, 2, 2, 3)))]
            closer = choose.randrange(len(plans)) if choose.random() < 0.25 else None
            if closer is not None:
                plans[closer].insert(choose.randrange(len(plans[closer]) + 1), close)
            schedule.run(*(functools.partial(work, rig, jobs) for jobs in plans))
        if not schedule.failures:
            _end(rig)
        return _outcome(rig, seed, allow)


def _surroundings(choose: random.Random) -> contextlib.ExitStack:
    """No log; and in some schedules contexts and CUDA graphs have few places, so that the oldest go."""
    stack = contextlib.ExitStack()
    # Without log records: those that pytest keeps hold tracebacks, and so the contexts that failed.
    stack.callback(logging.disable, logging.root.manager.disable)
    logging.disable()
    stack.enter_context(mock.patch.object(graph_runner, "MOST_CONTEXTS", choose.choice((1, 3, 64))))
    stack.enter_context(mock.patch.object(graph_runner, "MOST_GRAPHS", choose.choice((1, 3, 16))))
    return stack


def _outcome(rig: Rig, seed: int, allow: tuple[str, ...]) -> Outcome:
    schedule, cuda = rig.schedule, rig.cuda
    reasons = [*cuda.check(), *rig.reasons]
    if rig.trt.recaptures:
        reasons.append(f"recapture: TensorRT-RTX captured anew {rig.trt.recaptures} times")
    reasons += [text if text.startswith("deadlock") else f"thread: {text}" for text in schedule.failures]
    rig.counts.update(
        steps=sum(name == "decoder_step" for name, _ in rig.trt.executions),
        captures=cuda.calls["cudaStreamBeginCapture"],
        replays=cuda.launches,
        injected=sum(cuda.injected.values()) + bool(cuda.sticky),
        recaptures=rig.trt.recaptures,
        collections=schedule.collections,
        switches=schedule.steps,
        calls=sum(cuda.calls.values()),
    )
    return Outcome(seed, [reason for reason in reasons if reason.split(":")[0] not in allow], rig.counts)


# Opening


def _rig(material: Material, choose: random.Random, schedule: Schedule) -> Rig:
    runtime = choose.choices(RUNTIMES, weights=(6, 2, 2))[0]
    how: dict[str, Any] = choose.choice(({"eager": True}, {}, {"seed": choose.random()}, {"seed": choose.random()}))
    cuda = FakeCuda(**how, devices=choose.choice((1, 1, 1, 2)))
    cuda.on_call = schedule.step
    trt = FakeTensorRt(cuda, rtx=runtime == "tensorrt_rtx", run_graph=material.run_graph)
    return Rig(material, choose, schedule, cuda, trt, runtime, size=choose.choice((None, 1, 2, 4)))


def _open(rig: Rig, prepare: Callable[[Rig], object]) -> bool:
    """Open the backend. False if that failed, as it may."""
    graphs = rig.choose.random() < 0.8
    try:
        if rig.runtime == "onnxruntime-cuda":
            bundle, run = rig.material.bundle, rig.material.run_graph
            rig.backend = open_on_cpu(bundle, rig.cuda, run, cuda_graphs=graphs)
        else:
            bundle, folder = rig.material.devices[rig.runtime, rig.choose.randrange(len(PROFILES))]
            for kept in folder.glob("*.cache"):
                kept.unlink()
            rig.backend = TensorRtBackend(
                bundle, runtime=rig.runtime, sdk=rig.trt, cuda_python=rig.cuda, cuda_graphs=graphs
            )
    except BackendError as error:
        rig.counts["not opened"] += 1
        if not rig.excused(error):
            rig.reasons.append(f"error: opening raised {error}")
        return False
    if rig.choose.random() < 0.15:
        rig.cuda.memory = rig.cuda.blocks.used + rig.choose.choice((600_000, 1_200_000))  # bytes: one batch or two
    prepare(rig)
    _poison_what_is_lent_again(rig)
    return True


def open_on_cpu(bundle: Bundle, cuda: FakeCuda, run_graph: RunGraph, **options: Any) -> OnnxRuntimeCudaBackend:
    """The ONNX Runtime CUDA backend, whose graphs run as work of the fake stream."""

    class Context:
        def __init__(self, _onnxruntime: Any, session: Any, name: str, _device: str, shapes: Any, _: Any) -> None:
            self._session, self._name, self._shapes = session, name, dict(shapes)

        def enqueue(self, addresses: Any, turn: Turn) -> None:
            execution = Execution(self._session, self._shapes, addresses, run_graph)
            name = f"the {self._name} graph"
            cuda.enqueue(turn.handle, Operation(name, execution, reads=execution.reads, writes=execution.writes))

        def close(self) -> None:
            """The session is every schedule's."""

    class Executor(SessionExecutor):
        device = "cpu"
        context_type = Context  # type: ignore[assignment]

        def __init__(self, onnxruntime: Any, graph: Path, turn: Turn, dimensions: Any) -> None:
            self._onnxruntime, self._name, self._session = onnxruntime, graph.stem, session_of(graph)
            self._dimensions = dimensions

    class Backend(OnnxRuntimeCudaBackend):
        executor = Executor

    return Backend(bundle, cuda_python=cuda, **options)


def _inject(rig: Rig) -> None:
    """In one schedule of four something fails now and then; in one of forty the device is lost."""
    choose, cuda = rig.choose, rig.cuda
    cuda.fault_random.seed(choose.random())
    if choose.random() < 0.25:
        for name, code in (
            ("cudaMalloc", 2),
            ("cudaHostAlloc", 2),
            ("cudaEventCreateWithFlags", 2),
            ("cudaGraphLaunch", 2),
            ("sdk_allocate", 2),
            ("cudaStreamEndCapture", 901),
            ("cudaGraphInstantiate", 2),
        ):
            if choose.random() < 0.5:
                cuda.fail_at_random(name, choose.choice((0.05, 0.3)), code)
    if choose.random() < 0.025:
        calls = iter(range(choose.randrange(400)))

        def step(name: str) -> None:
            rig.schedule.step(name)
            if next(calls, None) is None and not cuda.sticky:
                cuda.lose_device()

        cuda.on_call = step


def _poison_what_is_lent_again(rig: Rig) -> None:
    """A batch that was used before holds what no program may rely on: it is poisoned when it is lent again.

    Work on it that nobody waited for may still be on its way. Then it is finished first, or the batch is left alone.
    """
    pool, cuda, choose = rig.backend.pool, rig.cuda, rig.choose
    seen: list[Any] = []
    take = pool.take

    def take_poisoned(rows: int) -> Any:
        lease = take(rows)
        if any(lease.batch is other for other in seen):
            poison_batch(cuda, lease.batch, finish=choose.random() < 0.5)
            rig.counts["lent again"] += 1
        else:
            seen.append(lease.batch)
        return lease

    pool.take = take_poisoned


def poison_batch(cuda: FakeCuda, batch: Any, *, finish: bool) -> None:
    """Fill a batch's memory with NaN."""
    buffers = batch.device.memory
    addresses = [buffers.crops, buffers.cross_kv, buffers._spare]
    addresses += [staging.address for staging in (batch.crops, batch.inputs, *batch.outputs, batch.pooled) if staging]
    blocks = [block for block in map(cuda.block_at, addresses) if block is not None and block.live]
    for block in blocks:
        if finish:
            cuda.finish_on(block.address, block.size)
        if not cuda.pending_on(block.address, block.size):
            block.content[...] = POISON


# The end


def _end(rig: Rig) -> None:
    """Close, and see that nothing is left. What comes after is refused."""
    if rig.backend is not None:
        if not rig.closing and not rig.cuda.sticky:
            go_on(rig)
        _close_for_good(rig)
    leaks = rig.cuda.leaks()
    if leaks:
        kinds = sorted({leak.partition(" at ")[0].partition(" bytes of ")[2] or leak.split()[0] for leak in leaks})
        rig.reasons.append(f"leak: {', '.join(kinds)} ({len(leaks)} in all: {', '.join(leaks[:3])})")


def _close_for_good(rig: Rig) -> None:
    rig.closing = True
    try:
        rig.backend.close()
        rig.backend.close()  # safe to call twice
    except BackendError as error:
        rig.reasons.append(f"error: close raised {error}")
    rig.counts["closes"] += 1
    if rig.choose.random() < 0.3:
        try:
            rig.backend.encode(rig.material.batch([0]))
            rig.reasons.append("closed: encode went on after close")
        except BackendError as error:
            if "is closed" not in str(error):
                rig.reasons.append(f"closed: encode after close raised {error}")
        except Exception as error:
            rig.reasons.append(f"closed: encode after close raised {type(error).__name__}: {error}")
