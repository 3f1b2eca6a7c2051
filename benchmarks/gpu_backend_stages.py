"""The stages of gpu_check.py for one backend: its tokens, its speed, and the placement of nodes by ONNX Runtime.

Each stage is a function of a `Job` and a `Report`. The reference stage must run before.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gpu_process import Report
from gpu_stages import BATCH, Job, full_precision, load_reference, measure_speed

from seqpar_deploy import Bundle
from seqpar_deploy.backends import Backend, open_backend
from seqpar_deploy.backends.gpu.engine_files import GRAPHS, RUNTIMES, USED_OUTPUTS
from seqpar_deploy.backends.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend
from seqpar_deploy.backends.gpu.tensorrt import TensorRtBackend
from seqpar_deploy.backends.sessions import PROVIDERS, import_onnxruntime, inference_session
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.decoding.base import Generation, Strategy
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import Reference
from seqpar_deploy.parity.tolerances import ParityTolerances

SMALL = 5  # rows of a small batch
TIMES = 3  # each batch: a CUDA graph is captured at the second, and replayed from the third on
SOAK_ROUNDS = 3  # at least: the first one loads libraries, the growth is that of the others


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A backend, and the reference to compare it with."""

    bundle: Bundle
    backend: Backend[Any]
    answers: Reference
    tolerances: ParityTolerances
    large: int

    @property
    def max_steps(self) -> int:
        return self.bundle.dimensions.capacity - 1

    def generate(self, crops: Sequence[int], strategy: Strategy) -> list[Generation]:
        state = self.backend.encode(self.answers.crops[list(crops)])
        return strategy.generate(self.backend, state, max_steps=self.max_steps)

    def batch(self, rows: int, number: int) -> list[int]:
        """Return the crops of a batch. Batches of different numbers have different crops."""
        return [(7 * number + row) % len(self.answers.crops) for row in range(rows)]


def _subject(job: Job, bundle: Bundle, backend: Backend[Any]) -> Subject:
    large = min(job.large, backend.max_rows or job.large)
    tolerances = load_recipe("fp16").parity
    return Subject(bundle=bundle, backend=backend, answers=load_reference(job), tolerances=tolerances, large=large)


@contextlib.contextmanager
def opened(job: Job, report: Report, *, graphs: bool | None = None) -> Iterator[Subject]:
    """Open the job's backend, with or without CUDA graphs, or with the defaults."""
    bundle = job.bundle
    with report.step("opening"):
        backend = open_backend(bundle, job.backend) if graphs is None else _with_graphs(bundle, job.backend, graphs)  # type: ignore[arg-type]
    with contextlib.closing(backend):
        yield _subject(job, bundle, backend)


def _with_graphs(bundle: Bundle, name: str, graphs: bool) -> Backend[Any]:
    if name in RUNTIMES:
        return TensorRtBackend(bundle, runtime=name, cuda_graphs=graphs)  # type: ignore[arg-type]
    if name == "onnxruntime-cuda" and can_capture(name):
        return OnnxRuntimeCudaBackend(bundle, cuda_graphs=graphs)
    return open_backend(bundle, name)  # type: ignore[arg-type]


def can_capture(name: str) -> bool:
    """Return whether a backend has a switch for CUDA graphs."""
    backends = {"onnxruntime-cuda": OnnxRuntimeCudaBackend} | dict.fromkeys(RUNTIMES, TensorRtBackend)
    return name in backends and "cuda_graphs" in inspect.signature(backends[name]).parameters


# Answers


def parity(job: Job, report: Report) -> None:
    with opened(job, report) as subject:
        check_answers(subject, report)


def check_answers(subject: Subject, report: Callable[..., None]) -> None:
    """Compare tokens, log-probabilities and probabilities, in every slot of a batch, with eager PyTorch in FP32."""
    answers = subject.answers
    found = check_parity(
        subject.backend,
        answers,
        subject.tolerances,
        batch_size=BATCH,
        on_progress=lambda done, total: report(crops_done=done),
    )
    report(
        identical=found.identical,
        identical_share=found.identical / found.crops,
        ties=found.ties,
        breaches=found.breaches,
        largest_margin=max((divergence.margin for divergence in found.divergences), default=0.0),
        log_prob_median=found.log_prob_median,
        log_prob_p99=found.log_prob_p99,
        log_prob_max=found.log_prob_max,
        probability_max=found.probability_max,
    )
    wrong = 0
    for crop in range(min(4, len(answers.crops))):
        generations = subject.generate([crop] * subject.large, Greedy())
        wrong += sum(generation.tokens != generations[0].tokens for generation in generations)
    report(slots_that_differ=wrong)


def speed(job: Job, report: Report) -> None:
    if job.device == "cuda":
        full_precision()
    with opened(job, report) as subject:
        measure_speed(job, subject.bundle, subject.backend, subject.answers, subject.bundle.precision, report)


def baselines(job: Job, report: Report) -> None:
    """Measure other baselines of eager PyTorch: cached in FP16, with folded text tower, and as published."""
    full_precision()
    from seqpar_deploy.exporting.precision import converted, token_table_in
    from seqpar_deploy.modeling.eager import CachedEagerBackend, EagerBackend
    from seqpar_deploy.modeling.load import load_network
    from seqpar_deploy.modeling.published import PublishedBackend

    bundle, answers = job.bundle, load_reference(job)
    preprocessing, phrases = bundle.preprocessing, bundle.label_set.phrases
    with report.step("loading the checkpoint"):
        loaded = load_network(job.checkpoint, bundle=bundle, device=job.device, keep_text_tower=True)
    model, table = loaded.network, loaded.token_table
    half = CachedEagerBackend(converted(model, "fp16"), token_table_in(table, "fp16"), preprocessing)
    variants: dict[str, tuple[Backend[Any], str]] = {
        "cached, fp16": (half, "fp16"),
        "text folded": (EagerBackend(model, table, preprocessing), "fp32"),
        "as published": (PublishedBackend(model, phrases, preprocessing), "fp32"),
    }
    for name, (backend, precision) in variants.items():
        figures: dict[str, Any] = {}

        def within(name: str = name, figures: dict[str, Any] = figures, **values: Any) -> None:
            figures.update(values)
            report(**{name: figures})

        with report.step(name):
            if precision == "fp16":
                check_answers(_subject(job, bundle, backend), within)
            measure_speed(job, bundle, backend, answers, precision, within)


# Nodes by provider, of ONNX Runtime


def placement(job: Job, report: Report) -> None:
    """Count the nodes of each graph by ONNX Runtime provider. The GPU waits for nodes on the CPU."""
    device = "cuda" if job.backend == "onnxruntime-cuda" else "cpu"
    onnxruntime = import_onnxruntime(device)
    if hasattr(onnxruntime, "preload_dlls") and device == "cuda":
        onnxruntime.preload_dlls()
    bundle = job.bundle
    for name in GRAPHS:
        with report.step(name):
            report(**{name: nodes_by_provider(onnxruntime, bundle, name, device)})


def nodes_by_provider(onnxruntime: Any, bundle: Bundle, graph: str, device: str) -> dict[str, Any]:
    """Return the nodes that ONNX Runtime ran for a batch of two rows, from its profile, which all versions write."""
    d = bundle.dimensions
    sizes = {"B": 2, "T": 1, "W": d.image_size, "N": d.image_tokens}
    spec = bundle.manifest["graphs"][graph]
    feed = {
        value["name"]: np.zeros([sizes.get(size, size) for size in value["shape"]], dtype=value["dtype"])
        for value in spec["inputs"]
    }
    with tempfile.TemporaryDirectory() as folder:
        session = inference_session(
            onnxruntime,
            bundle.path / GRAPHS[graph],
            [PROVIDERS[device]],
            enable_profiling=True,
            profile_file_prefix=str(Path(folder) / graph),
        )
        session.run([value["name"] for value in spec["outputs"] if value["name"] in USED_OUTPUTS], feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = {
        (event["args"].get("node_index"), event["name"]): event["args"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and "provider" in event.get("args", {})
    }
    by_provider = collections.Counter(arguments["provider"] for arguments in ran.values())
    on_cpu = collections.Counter(
        arguments["op_name"] for arguments in ran.values() if arguments["provider"] == PROVIDERS["cpu"]
    )
    memcpy = sum("Memcpy" in arguments["op_name"] for arguments in ran.values())
    return {"nodes": dict(by_provider), "on_cpu": dict(on_cpu.most_common()), "memcpy": memcpy}
