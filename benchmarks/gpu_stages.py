"""The stages of gpu_check.py before the backends: the machine, the bundle, engines and the reference.

Each stage is a function of a `Job` and a `Report`. Only the stages that need torch import it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gpu_process import Report

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.backends import Backend, describe
from seqpar_deploy.backends.base import GreedyBackend, Int64Array
from seqpar_deploy.backends.gpu.cuda import find_gpu
from seqpar_deploy.backends.gpu.engine_files import has_engines, list_engines
from seqpar_deploy.bench.device_roofline import measure_device_roofline
from seqpar_deploy.bench.flops import encoder_flops, step_bytes
from seqpar_deploy.bench.timing import durations, median_seconds, wait_for
from seqpar_deploy.bundle import BatchProfile
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.parity.reference import Reference, reference_generations
from seqpar_deploy.preprocess import Crop, default_columns, prepare_batch
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.resources import load_label_set, sample_crops
from seqpar_deploy.vocab import BOS, LabelSet

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS_SEED = 15  # of the full-size model's random weights
RENDERED_SEED = 2000  # of no training and of no other test
BATCH = 64
BEAM_CROPS = 16
EAGER = "eager cached"  # the reference stage, and the baseline
NEVER = -1  # no token: decoding goes on to the last step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One model on one backend. Its files are in the folder `work`."""

    model: str  # "full" or "demo"
    device: str  # "cuda" or "cpu"
    work: str
    backend: str = ""
    crops: int = 20
    seconds: float = 1.0  # for each timing
    soak_seconds: float = 10.0
    roofline: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def label_set(self) -> str:
        return "peta" if self.model == "full" else "pa100k"

    @property
    def checkpoint(self) -> Path:
        """Return the checkpoint of trimmed crops: random weights, or the demo model's."""
        return Path(self.work) / f"{self.model}-trimmed.safetensors"

    def pooled_file(self, name: str) -> Path:
        """Return the file of eager PyTorch's pooled features of one variant."""
        return Path(self.work) / f"{self.model}-pooled{_slug(name)}.npy"

    @property
    def bundle(self) -> Bundle:
        return Bundle.open(Path(self.work) / f"{self.model}-fp16", verify=False)

    @property
    def large(self) -> int:
        """Return the number of rows of a large batch."""
        return BATCH if self.device == "cuda" else 8


# The machine


def machine(job: Job, report: Report) -> None:
    """Describe the processor, the GPU, and each backend's SDK."""
    report(**describe_machine())
    if job.device == "cuda":
        report(gpu=dataclasses.asdict(find_gpu()))
    report(runtimes={status.name: dataclasses.asdict(status) for status in describe()})


def roofline(job: Job, report: Report) -> None:
    full_precision()
    report(**dataclasses.asdict(measure_device_roofline(job.device, seconds=job.seconds)))


def full_precision() -> None:
    """Disable TF32 in convolutions. In matrix products it is off by default."""
    import torch

    torch.backends.cudnn.allow_tf32 = False


# The bundle


def export(job: Job, report: Report) -> None:
    """Export an FP16 bundle with profiles for one crop and for many. Parity runs on the CPU, on few crops."""
    from seqpar_deploy.exporting.export import export_bundle
    from seqpar_deploy.exporting.recipe import load_recipe

    label_set = load_label_set(job.label_set)
    if not job.checkpoint.exists():
        with report.step("writing the checkpoint"):
            write_trimmed_checkpoint(job, label_set)
    recipe = load_recipe("fp16")
    batches = (BatchProfile(min=1, opt=1, max=4), BatchProfile(min=1, opt=BATCH, max=BATCH))
    few = dataclasses.replace(recipe.parity, crops=4, rendered=0, beams=0, largest_batch=4)
    recipe = dataclasses.replace(recipe, batches=batches, parity=few, drafts=None)
    out = Path(job.work) / f"{job.model}-fp16"
    bundle = export_bundle(job.checkpoint, recipe, out, label_set=label_set, overwrite=True, progress=shown_by(report))
    report(digest=bundle.digest, checkpoint=bundle.manifest["checkpoint"], encoder_gflop=encoder_flops(bundle) / 1e9)


def write_trimmed_checkpoint(job: Job, label_set: LabelSet) -> None:
    """Write random weights or the demo model's, as a checkpoint that reads trimmed crops.

    A model of whole squares is redefined: its answers on trimmed crops are its own, and nothing is said of their worth.
    """
    import torch

    from seqpar_deploy.modeling.architecture import vit_l_14
    from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
    from seqpar_deploy.modeling.random_weights import random_model

    if job.model == "full":
        model = random_model(vit_l_14(len(label_set)), seed=WEIGHTS_SEED)
    else:
        model = build_model(load_checkpoint(ROOT / "models" / "demo" / "demo.safetensors"), label_set)
    own = model.architecture
    model.architecture = dataclasses.replace(own, columns=own.columns or default_columns(own.grid))
    save_checkpoint(job.checkpoint, model, label_set, dtype=torch.float32)


def whole_squares(bundle: Bundle) -> Bundle:
    """Return a view of a bundle that reads crops with all their padding."""
    return dataclasses.replace(bundle, padding="full", columns=None)


def build(job: Job, report: Report) -> None:
    """Build TensorRT engines. The next stages also use engines that fail their first check."""
    from seqpar_deploy.build_engines import build_engines

    bundle = job.bundle
    try:
        build_engines(bundle, runtime=job.backend, progress=shown_by(report))  # type: ignore[arg-type]
    finally:
        if has_engines(bundle, job.backend):  # type: ignore[arg-type]
            folder = next(folder for folder, _ in list_engines(bundle) if folder.name.startswith(f"{job.backend}-"))
            sizes = {plan.stem: plan.stat().st_size / 1e6 for plan in sorted(folder.glob("*.plan"))}
            report(engines=json.loads((folder / "engine.json").read_text()), plan_mb=sizes)


def shown_by(report: Report) -> Callable[[str], contextlib.AbstractContextManager[OnProgress]]:
    """Return a `Progress` whose stages are steps of a report."""

    @contextlib.contextmanager
    def progress(name: str) -> Iterator[OnProgress]:
        with report.step(name):
            yield lambda _done, _total: None

    return progress


# Eager PyTorch


def eager_cached(job: Job, report: Report) -> None:
    """Run eager PyTorch in FP32, the reference of the backends' tokens and the baseline of their speed."""
    full_precision()
    from seqpar_deploy.modeling.eager import CachedEagerBackend
    from seqpar_deploy.modeling.load import load_network

    bundle = job.bundle
    with report.step("loading the checkpoint"):
        loaded = load_network(job.checkpoint, bundle=bundle, device=job.device)
        eager = CachedEagerBackend(loaded.network, loaded.token_table, bundle.preprocessing)
    with report.step("preparing crops"):
        prepared = prepare_batch(
            crops_of(job.crops), image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing
        )
    with report.step("answers"):
        answers = reference_generations(
            eager,
            prepared,
            max_steps=bundle.dimensions.capacity - 1,
            beams=range(min(BEAM_CROPS, len(prepared))),
            batch_size=BATCH,
        )
        save_reference(job, answers)
    report(answers={"crops": len(prepared), "tokens_median": float(np.median(answers.lengths))})
    measure_speed(job, bundle, eager, answers, "fp32", report)


def crops_of(number: int) -> list[Crop]:
    """Return all real crops, and rendered ones for the rest."""
    from seqpar_deploy.images import read_image
    from seqpar_deploy.synth.render import render_person

    real = [read_image(path) for path in sample_crops()][:number]
    return real + [render_person(RENDERED_SEED, index)[0] for index in range(number - len(real))]


def save_reference(job: Job, answers: Reference, name: str = "") -> None:
    names = ("crops", "tokens", "log_probs", "beam_tokens", "beam_margins")
    np.savez(_reference_file(job, name), **{name: getattr(answers, name) for name in names})


def load_reference(job: Job, name: str = "") -> Reference:
    with np.load(_reference_file(job, name)) as arrays:
        return Reference(**arrays)


def _reference_file(job: Job, name: str) -> Path:
    """Return the file of the reference on whole squares, or on a variant of this name."""
    return Path(job.work) / f"{job.model}-reference{_slug(name)}.npz"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in f" {name}" * bool(name))


# Speed, of eager PyTorch and of backends


def measure_speed(
    job: Job, bundle: Bundle, backend: Backend[Any], answers: Reference, precision: str, report: Callable[..., None]
) -> None:
    """Measure latency and throughput from raw crops to attributes, and each graph's share of the device's roofline.

    Crops are whole squares, as the targets are. The stage `widths` measures trimmed ones.
    """
    recognizer = Recognizer(whole_squares(bundle), backend, batch_size=BATCH)
    real = itertools.cycle(crops_of(min(20, job.crops)))
    one = durations(lambda: recognizer.predict([next(real)]), job.device, seconds=job.seconds)
    report(latency_ms={f"p{share}": 1e3 * float(np.percentile(one, share)) for share in (50, 95, 99)})
    many = [next(real) for _ in range(4 * BATCH if job.device == "cuda" else 2)]
    seconds = median_seconds(lambda: recognizer.predict(many), job.device, seconds=job.seconds, least=1)
    report(crops_per_second=len(many) / seconds)
    for rows in (1, BATCH) if job.device == "cuda" else (1,):
        report(**{f"batch_{rows}": graph_speed(job, bundle, backend, answers, precision, rows)})


def graph_speed(
    job: Job, bundle: Bundle, backend: Backend[Any], answers: Reference, precision: str, rows: int
) -> dict[str, Any]:
    """Return the times of encoding and of one decoder step. It runs all steps, so the number of steps is known."""
    steps = bundle.dimensions.capacity - 1
    prepared = np.resize(answers.crops, (rows, *answers.crops.shape[1:]))
    encode = median_seconds(lambda: backend.encode(prepared), job.device, seconds=job.seconds)
    taken: list[float] = []

    def decode() -> None:
        state = backend.encode(prepared)
        wait_for(job.device)
        start = time.perf_counter()
        decode_steps(backend, state, steps)
        wait_for(job.device)
        taken.append(time.perf_counter() - start)

    durations(decode, job.device, seconds=job.seconds)
    step = float(np.median(taken[1:])) / steps  # the first one warms up
    result = {"encode_ms": 1e3 * encode, "step_ms": 1e3 * step, "steps": steps}
    if job.roofline:
        flops = rows * encoder_flops(bundle)
        result["encoder_share_of_gemm"] = flops / encode / job.roofline[f"{precision}_flops"]
        # Above 1 if a cache holds the weights of a small model.
        result["step_share_of_copying"] = step_bytes(bundle, precision, rows) / step / job.roofline["copied_bytes"]
    return result


def decode_steps(backend: Backend[Any], state: Any, steps: int) -> None:
    """Decode exactly `steps` steps greedily, also after all rows have ended.

    A backend with an asynchronous device is some steps ahead of the host when the last row stops, so it returns fewer
    steps than it ran. Here no row stops. Raises ValueError if fewer steps are returned or counted in the state.
    """
    if isinstance(backend, GreedyBackend):
        returned = backend.greedy(state, stop=NEVER, max_steps=steps).next_token.shape[1]
    else:
        tokens: Int64Array = np.full(len(state.lengths), BOS, dtype=np.int64)
        for _ in range(steps):
            tokens = backend.step(state, tokens[:, None]).next_token[:, 0]
        returned = int(state.lengths.min())
    if returned != steps:
        raise ValueError(f"decoder steps must be {steps}, got {returned}; the time of a step would be wrong")
