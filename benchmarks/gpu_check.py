"""Check and measure all GPU backends on this machine's NVIDIA GPU, and write one JSON file.

    python benchmarks/gpu_check.py                     # both models, 8 minutes at most, no network
    python benchmarks/gpu_check.py --device cpu --model demo --crops 20      # tries the script without a GPU

For the full-size model with random weights and for the demo model, the script exports an FP16 bundle, builds TensorRT
engines if TensorRT is installed, and compares each backend that opens with eager PyTorch in FP32: tokens on real and
rendered crops, with beams, and in every slot of a batch; latency and throughput; and the share of the device's
roofline, measured in the same run. Backends that are not installed or fail are skipped, with the reason. The file is
written after every measurement, so that an interrupted run keeps its results.

Needs torch, open_clip_torch, onnx, onnxscript, safetensors and cuda-python. Measures onnxruntime-gpu, and tensorrt or
tensorrt-rtx with polygraphy, if they are installed. In a checkout, set PYTHONPATH=.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import itertools
import json
import multiprocessing
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.backends import Backend, open_backend
from seqpar_deploy.backends.gpu.cuda import find_gpu
from seqpar_deploy.backends.gpu.engine_files import RUNTIMES, installed_runtimes
from seqpar_deploy.backends.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend
from seqpar_deploy.bench.device_roofline import measure_device_roofline
from seqpar_deploy.bench.flops import encoder_flops, step_bytes
from seqpar_deploy.bench.timing import durations, median_seconds, wait_for
from seqpar_deploy.build_engines import build_engines
from seqpar_deploy.bundle import BatchProfile
from seqpar_deploy.decoding import Beam, Greedy
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.precision import converted, token_table_in
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.modeling.architecture import vit_l_14
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.eager import CachedEagerBackend, EagerBackend
from seqpar_deploy.modeling.load import load_network
from seqpar_deploy.modeling.published import PublishedBackend
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import Reference, reference_generations
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.resources import load_label_set, sample_crops
from seqpar_deploy.synth.render import render_person

ROOT = Path(__file__).resolve().parents[1]
BATCH = 64
RENDERED_SEED = 2000  # of no training and of no other test
BEAM, BEAM_CROPS = Beam(width=3), 16
EAGER = "eager cached"
CPU_BACKENDS = ("openvino", "onnxruntime")
CUDA_BACKENDS = ("onnxruntime-cuda", "onnxruntime-cuda with CUDA graphs", *RUNTIMES)


def main() -> None:
    options = arguments()
    torch.backends.cudnn.allow_tf32 = False  # FP32 means FP32; for matrix products it does by default
    results = Results(options.out, time.monotonic() + 60 * options.minutes)
    results.values |= {"date": datetime.date.today().isoformat(), "device": options.device, "crops": options.crops}
    results.measure("machine", lambda: machine(options.device))
    results.measure(
        "roofline", lambda: dataclasses.asdict(measure_device_roofline(options.device, seconds=options.seconds))
    )
    crops = [read_image(path) for path in sample_crops()][: options.crops]
    crops += [render_person(RENDERED_SEED, index)[0] for index in range(options.crops - len(crops))]
    for model in options.model:
        check_model(model, crops, options, results)
        print_summary(results.values[model], model)
    if EAGER in results.values.get("full", {}):
        results.measure("targets", lambda: targets(results.values["full"]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    parser.add_argument("--model", choices=["full", "demo"], nargs="+", default=["full", "demo"], help="default: both")
    parser.add_argument(
        "--crops", type=int, default=1000, help="crops for parity, 20 real, the others rendered; default: 1000"
    )
    parser.add_argument(
        "--minutes", type=float, default=7.5, help="time limit; no measurement starts after it; default: 7.5"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="seconds per timing; default: 1.5")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "gpu-check", help="folder for checkpoints and bundles"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/gpu-check-NAME.json")
    options = parser.parse_args()
    if options.crops < 1:
        parser.error(f"--crops must be 1 or more, got {options.crops}")
    name = platform.machine()
    if options.device == "cuda":
        try:
            name = find_gpu().name
        except SeqparError as error:
            sys.exit(f"error: {error}; --device cpu tries this script without a GPU")
    file = f"gpu-check-{'-'.join(name.lower().split())}.json"
    options.out = options.out or ROOT / "benchmarks" / "results" / file
    options.work.mkdir(parents=True, exist_ok=True)
    return options


class Results:
    """The measurements so far, kept in a JSON file."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.values: dict[str, Any] = {}
        self._path, self._deadline = path, deadline

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    def measure(self, name: str, work: Callable[[], dict[str, Any]], *, model: str | None = None) -> dict[str, Any]:
        """Keep the values that `work` returns, or `{"skipped": reason}`, under a name."""
        print(f"{model or ''} {name} ...".lstrip(), end=" ", flush=True)
        start = time.monotonic()
        try:
            values = work() if self.seconds_left > 0 else {"skipped": "no time was left"}
        except SeqparError as error:
            values = {"skipped": str(error)}
        except Exception as error:  # a failure of one library is a result; the next library follows
            values = {"skipped": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        print(f"{time.monotonic() - start:.0f} s {values.get('skipped', '')}", flush=True)
        (self.values if model is None else self.values.setdefault(model, {}))[name] = values
        write_whole(self._path, (json.dumps(self.values, indent=2) + "\n").encode())
        return values


def machine(device: str) -> dict[str, Any]:
    return describe_machine() | ({"gpu": dataclasses.asdict(find_gpu())} if device == "cuda" else {})


@dataclasses.dataclass
class Job:
    """A model's data for the process that opens its bundle on a backend."""

    bundle_path: Path
    crops: Sequence[Crop]
    device: str
    seconds: float  # for each timing
    roofline: dict[str, float]
    reference: Reference | None = None
    beams: Sequence[tuple[int, ...]] = ()  # tokens of the first crops, found with beams
    flops: int = 0  # of the encoder for a crop


def check_model(name: str, crops: Sequence[Crop], options: argparse.Namespace, results: Results) -> None:
    label_set = load_label_set("peta" if name == "full" else "pa100k")
    full, demo = options.work / "full-random.safetensors", ROOT / "models" / "demo" / "demo.safetensors"
    checkpoint, bundle_path = full if name == "full" else demo, options.work / f"{name}-fp16"
    exported = results.measure("export", lambda: export(checkpoint, label_set, bundle_path), model=name)
    if "skipped" in exported:
        return
    job = Job(bundle_path, crops, options.device, options.seconds, results.values["roofline"])
    check_eager(name, job, checkpoint, results)
    if options.device == "cuda":
        torch.cuda.empty_cache()
    if job.reference is None:
        return
    for backend in CUDA_BACKENDS if options.device == "cuda" else CPU_BACKENDS:
        results.measure(backend, lambda b=backend: check_apart(job, b, results.seconds_left), model=name)


def check_eager(name: str, job: Job, checkpoint: Path, results: Results) -> None:
    """PyTorch without export: the reference of the bundle, and baselines of the full-size model."""
    bundle = Bundle.open(job.bundle_path, verify=False)
    label_set = bundle.label_set
    loaded = load_network(checkpoint, bundle=bundle, device=job.device, keep_text_tower=True)
    model, table = loaded.network, loaded.token_table
    cached = CachedEagerBackend(model, table, label_set.preprocessing)
    results.measure("reference", lambda: refer_to(job, bundle, cached), model=name)
    if name == "full":
        published = PublishedBackend(model, label_set.phrases, label_set.preprocessing)
        results.measure("eager as published", lambda: speed(job, bundle, published, "fp32"), model=name)
        folded = EagerBackend(model, table, label_set.preprocessing)
        results.measure("eager, text folded", lambda: speed(job, bundle, folded, "fp32"), model=name)
    results.measure(EAGER, lambda: speed(job, bundle, cached, "fp32"), model=name)
    if name == "full":
        half = CachedEagerBackend(converted(model, "fp16"), token_table_in(table, "fp16"), label_set.preprocessing)
        results.measure(
            "eager cached, fp16", lambda: parity(job, bundle, half) | speed(job, bundle, half, "fp16"), model=name
        )


def export(checkpoint: Path, label_set: Any, out: Path) -> dict[str, Any]:
    """An FP16 bundle with profiles for one crop and for many. Parity is checked on few crops: this is the CPU."""
    if not checkpoint.exists():
        save_checkpoint(checkpoint, random_model(vit_l_14(len(label_set))), label_set, dtype=torch.float32)
    recipe = load_recipe("fp16")
    batches = (BatchProfile(min=1, opt=1, max=4), BatchProfile(min=1, opt=BATCH, max=BATCH))
    few = dataclasses.replace(recipe.parity, crops=4, rendered=0, beams=0, largest_batch=4)
    recipe = dataclasses.replace(recipe, batches=batches, parity=few)
    start = time.monotonic()
    bundle = export_bundle(checkpoint, recipe, out, label_set=label_set, overwrite=True)
    return {"seconds": time.monotonic() - start, "digest": bundle.digest, "checkpoint": bundle.manifest["checkpoint"]}


def refer_to(job: Job, bundle: Bundle, eager: Backend[Any]) -> dict[str, Any]:
    """Fill in the reference: eager PyTorch in FP32."""
    size, max_steps = bundle.dimensions.image_size, bundle.dimensions.capacity - 1
    prepared = prepare_batch(job.crops, image_size=size, preprocessing=bundle.preprocessing)
    job.reference = reference_generations(eager, prepared, max_steps=max_steps, batch_size=BATCH)
    beams = BEAM.generate(eager, eager.encode(prepared[:BEAM_CROPS]), max_steps=max_steps)
    job.beams = [generation.tokens for generation in beams]
    job.flops = encoder_flops(bundle)
    lengths = job.reference.lengths
    return {"crops": len(prepared), "tokens_median": float(np.median(lengths)), "encoder_gflop": job.flops / 1e9}


def check_apart(job: Job, backend: str, seconds: float) -> dict[str, Any]:
    """`check_backend` in its own process, so that a crash or a broken CUDA context does not affect the others."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as executor:
        return executor.submit(check_backend, job, backend, seconds).result()


def check_backend(job: Job, name: str, seconds: float) -> dict[str, Any]:
    signal.alarm(max(1, round(seconds)))  # ends the process, even in native code
    bundle = Bundle.open(job.bundle_path, verify=False)
    result: dict[str, Any] = {}
    if name in installed_runtimes():
        start = time.monotonic()
        folder = build_engines(bundle, runtime=name)  # type: ignore[arg-type]
        result |= {"build_seconds": time.monotonic() - start}
        result |= {"engines": json.loads((folder / "engine.json").read_text())}
    if name == "onnxruntime-cuda with CUDA graphs":
        backend: Backend[Any] = OnnxRuntimeCudaBackend(bundle, cuda_graphs=True)
    else:
        backend = open_backend(bundle, name)  # type: ignore[arg-type]
    with closing(backend):
        return result | parity(job, bundle, backend) | speed(job, bundle, backend, bundle.precision)


def parity(job: Job, bundle: Bundle, backend: Backend[Any]) -> dict[str, Any]:
    """Against eager PyTorch in FP32: tokens and log-probabilities of all crops, beams, and each slot of a batch."""
    tolerances = load_recipe("fp16").parity
    found = check_parity(backend, job.reference, tolerances, batch_size=BATCH)
    reference, max_steps = job.reference, bundle.dimensions.capacity - 1
    beams = BEAM.generate(backend, backend.encode(reference.crops[:BEAM_CROPS]), max_steps=max_steps)
    wrong_slots = 0
    for crop in range(min(4, len(reference.crops))):
        batch = np.repeat(reference.crops[crop : crop + 1], BATCH, axis=0)
        generations = Greedy().generate(backend, backend.encode(batch), max_steps=max_steps)
        wrong_slots += sum(generation.tokens != generations[0].tokens for generation in generations)
    return {
        "identical": found.identical,
        "identical_share": found.identical / found.crops,
        "ties": sum(divergence.tie for divergence in found.divergences),
        "largest_margin": max((divergence.margin for divergence in found.divergences), default=0.0),
        "log_prob_median": found.log_prob_median,
        "log_prob_p99": found.log_prob_p99,
        "log_prob_max": found.log_prob_max,
        "identical_beams": sum(beam.tokens == wanted for beam, wanted in zip(beams, job.beams, strict=True)),
        "beams": len(beams),
        "slots_that_differ": wrong_slots,
    }


def speed(job: Job, bundle: Bundle, backend: Backend[Any], precision: str) -> dict[str, Any]:
    """Latency and throughput from raw crops to attributes, and the two graphs as shares of the device's roofline."""
    recognizer = Recognizer(bundle, backend, batch_size=BATCH)
    real = itertools.cycle(job.crops[: min(20, len(job.crops))])
    many = [next(real) for _ in range(4 * BATCH if job.device == "cuda" else 2)]
    one = durations(lambda: recognizer.predict([next(real)]), job.device, seconds=job.seconds)
    seconds = median_seconds(lambda: recognizer.predict(many), job.device, seconds=job.seconds, least=1)
    result: dict[str, Any] = {
        "latency_ms": {f"p{share}": 1e3 * float(np.percentile(one, share)) for share in (50, 95, 99)},
        "crops_per_second": len(many) / seconds,
    }
    for rows in (1, BATCH) if job.device == "cuda" else (1,):
        result[f"batch_{rows}"] = graph_speed(job, bundle, backend, precision, rows)
    return result


def graph_speed(job: Job, bundle: Bundle, backend: Backend[Any], precision: str, rows: int) -> dict[str, Any]:
    max_steps = bundle.dimensions.capacity - 1
    prepared = np.resize(job.reference.crops, (rows, *job.reference.crops.shape[1:]))
    steps = max(g.steps for g in Greedy().generate(backend, backend.encode(prepared), max_steps=max_steps))
    encode = median_seconds(lambda: backend.encode(prepared), job.device, seconds=job.seconds)
    decodes: list[float] = []

    def decode() -> None:
        state = backend.encode(prepared)
        wait_for(job.device)
        start = time.perf_counter()
        Greedy().generate(backend, state, max_steps=max_steps)
        wait_for(job.device)
        decodes.append(time.perf_counter() - start)

    durations(decode, job.device, seconds=job.seconds)
    step = float(np.median(decodes[1:])) / steps  # the first one warms up
    result = {"encode_ms": 1e3 * encode, "step_ms": 1e3 * step, "steps": steps}
    if "skipped" not in job.roofline:
        result["encoder_share_of_gemm"] = rows * job.flops / encode / job.roofline[f"{precision}_flops"]
        # May be over 1 where a cache holds the weights of a small model.
        result["step_share_of_copying"] = step_bytes(bundle, precision, rows) / step / job.roofline["copied_bytes"]
    return result


def targets(full: dict[str, Any]) -> dict[str, Any]:
    """The targets for an H100, per backend of the full-size model, and whether they are reached."""
    eager = full[EAGER]["latency_ms"]["p50"]
    found: dict[str, Any] = {}
    for name, values in full.items():
        if "latency_ms" in values and "identical_share" in values:
            latency = values["latency_ms"]["p50"]
            share = values.get(f"batch_{BATCH}", {}).get("encoder_share_of_gemm", 0.0)
            found[name] = {
                "latency_ms_p50": {"got": latency, "at_most": 3.0, "reached": latency <= 3.0},
                "crops_per_second": at_least(values["crops_per_second"], 2000.0),
                "encoder_share_of_gemm": at_least(share, 0.5),
                "times_faster_than_eager_cached": at_least(eager / latency, 5.0),
                "identical_share": at_least(values["identical_share"], 0.999),
            }
    return found


def at_least(got: float, target: float) -> dict[str, Any]:
    return {"got": got, "at_least": target, "reached": got >= target}


def print_summary(values: dict[str, Any], model: str) -> None:
    """The key figures."""
    found = {name: result for name, result in values.items() if "latency_ms" in result}
    print(f"\n{model:36}  p50 ms  crops/s  faster  identical")
    for name, result in found.items():
        p50 = result["latency_ms"]["p50"]
        faster = f"{found[EAGER]['latency_ms']['p50'] / p50:.2f}x" if EAGER in found else "-"
        print(f"{name:36} {p50:7.2f} {result['crops_per_second']:8.0f} {faster:>7} {result.get('identical', ''):>10}")
    print()


if __name__ == "__main__":
    main()
