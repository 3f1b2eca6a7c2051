"""Check and measure all GPU backends on this machine's NVIDIA GPU, and write one JSON file.

    python benchmarks/gpu_check.py                     # both models, 9 minutes at most, no network
    python benchmarks/gpu_check.py --device cpu --model demo --crops 20      # tries the script without a GPU

For the full-size model with random weights and for the demo model, the script exports an FP16 bundle, builds TensorRT
engines if TensorRT is installed, and compares each backend with eager PyTorch in FP32: tokens of real and rendered
crops, with beams, with guesses, in every slot of a batch, in batches of changing size, from two threads, with CUDA
graphs and without. It compares and measures crops of 1:1, 1:2, 1:2.5 and 1:3, whole and trimmed, with drafts and
without. It measures latency, throughput and the share of the device's roofline, lists the nodes that ONNX
Runtime places on the CPU, and checks for leaks of memory, threads and files.

Each stage runs in its own process and is killed at its time limit. The file is written with each new figure, so the
figures of a stage that was killed or crashed are kept, with the step at which it ended. The most important stages run
first. The summary at the end is also in the file.

The script needs torch, open_clip_torch, onnx, onnxscript, safetensors and cuda-python. It measures onnxruntime-gpu,
and tensorrt or tensorrt-rtx with polygraphy, if they are installed. gpu_wheels.py copies them to a machine without a
network. In a checkout, set PYTHONPATH=.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_process import run_stage
from gpu_stages import EAGER, Job
from gpu_summary import summary, targets

from seqpar_deploy.backends.gpu.cuda import find_gpu
from seqpar_deploy.backends.gpu.engine_files import RUNTIMES
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import finite, write_whole
from seqpar_deploy.interruption import stop_on_signal

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = {"cuda": ("tensorrt_rtx", "tensorrt", "onnxruntime-cuda"), "cpu": ("openvino", "onnxruntime")}

# Where each stage is, and its limit in seconds on a GPU; a CPU gets four times as long. All limits together are more
# than --minutes, which bounds the whole: a stage that hangs takes time from the last ones, not from the first.
STAGES = {
    "machine": ("gpu_stages", 40),
    "roofline": ("gpu_stages", 40),
    "export": ("gpu_stages", 150),
    EAGER: ("gpu_stages", 60),
    "shapes": ("gpu_width_stages", 40),
    "build": ("gpu_stages", 180),  # TensorRT builds the encoder's profiles one after the other, one per width
    "parity": ("gpu_backend_stages", 60),
    "speed": ("gpu_backend_stages", 45),
    "widths": ("gpu_width_stages", 45),
    "placement": ("gpu_backend_stages", 30),
    "mixed": ("gpu_mixed_stages", 45),
    "replays": ("gpu_mixed_stages", 40),
    "soak": ("gpu_mixed_stages", 40),
    "baselines": ("gpu_backend_stages", 60),
}
RIGHT_AND_FAST = ("build", "parity", "speed", "widths", "placement")
STILL_RIGHT = ("mixed", "replays")
WHOLE = "1:3 whole"  # of the stage `shapes`, among the last of its variants


def main() -> None:
    options = arguments()
    with stop_on_signal() as signals:
        check = Check(options, signals)
        try:
            check.run_all(options.model)
        finally:
            check.finish()
    print("\n" + "\n".join(check.values["summary"]))
    print(f"\nall figures: {options.out}")
    if signals:
        sys.exit(128 + signals[0])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    parser.add_argument("--model", choices=["full", "demo"], nargs="+", default=["full", "demo"], help="default: both")
    parser.add_argument("--crops", type=int, default=1000, help="crops for parity, of which 20 are real; default: 1000")
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit in minutes; default: 9")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per timing; default: 1")
    parser.add_argument("--soak", type=float, default=8.0, help="seconds of opening and closing a backend; default: 8")
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


class Check:
    """Runs stages, and writes their figures to a JSON file."""

    def __init__(self, options: argparse.Namespace, signals: Sequence[int]) -> None:
        self._options, self._signals = options, signals
        self._start = time.monotonic()
        self._limits = 1 if options.device == "cuda" else 4
        date = datetime.date.today().isoformat()
        self.values: dict[str, Any] = {"date": date, "device": options.device, "crops": options.crops}

    def run_all(self, models: Sequence[str]) -> None:
        """Run all stages, the most important first."""
        self.run("machine")
        self.run("roofline")
        full = "full" in models and self.prepare("full")
        if full:
            self.run_backends("full", RIGHT_AND_FAST)
            self.run_backends("full", STILL_RIGHT)
        if "demo" in models and self.prepare("demo"):
            self.run_backends("demo", (*RIGHT_AND_FAST, *STILL_RIGHT, "soak"))
        if full:
            self.run_backends("full", ("soak",))
            self.run("baselines", "full")

    def prepare(self, model: str) -> bool:
        """Export the bundle and compute the references. Return whether both exist."""
        if "digest" not in self.run("export", model) or "answers" not in self.run(EAGER, model):
            return False
        self.run("shapes", model)
        return True

    def run_backends(self, model: str, stages: Sequence[str]) -> None:
        for backend in BACKENDS[self._options.device]:
            for stage in stages:
                if self.has(model, backend, stage):
                    self.run(stage, model, backend)

    def has(self, model: str, backend: str, stage: str) -> bool:
        """Return whether a backend has a stage, and no earlier result makes it useless."""
        found = self.values[model].setdefault(backend, {})
        status = self.values["machine"].get("runtimes", {}).get(backend)
        if status is not None and not status["available"]:
            found["not_installed" if status["install"] else "unavailable"] = status["reason"]
            return False
        if stage == "build":
            return backend in RUNTIMES
        if backend in RUNTIMES and "engines" not in found.get("build", {}):
            return False
        if stage == "widths":
            return WHOLE in self.values[model].get("shapes", {})
        return stage != "placement" or backend.startswith("onnxruntime")

    def run(self, stage: str, model: str = "", backend: str = "") -> dict[str, Any]:
        """Run one stage, and return its figures, or the reason if it was skipped."""
        options = self._options
        place = self.values
        for name in filter(None, (model, backend)):
            place = place.setdefault(name, {})
        print(" ".join(filter(None, (model, backend, stage, "..."))), end=" ", flush=True)
        module, limit = STAGES[stage]
        left = 60 * options.minutes - (time.monotonic() - self._start)
        if self._signals or left <= 0:
            place[stage] = {"skipped": "stopped by a signal" if self._signals else "no time was left"}
        else:
            roofline = self.values.get("roofline", {})
            job = Job(
                model=model,
                backend=backend,
                device=options.device,
                work=str(options.work),
                crops=options.crops,
                seconds=options.seconds,
                soak_seconds=options.soak,
                roofline=roofline if "uploaded_bytes" in roofline else {},
            )
            place[stage] = run_stage(
                f"{module}:{stage.replace(' ', '_')}",
                dataclasses.asdict(job),
                seconds=min(self._limits * limit, left),
                on_values=lambda values: self._keep(place, stage, values),
                stopping=lambda: self._signals,
            )
        self.write()
        endings = ("skipped", "unavailable", "failed", "crashed", "stopped")
        words = [f"{ending} {place[stage][ending]}" for ending in endings if ending in place[stage]]
        print(f"{place[stage].get('seconds', 0):.0f} s", "; ".join(words), flush=True)
        return place[stage]

    def _keep(self, place: dict[str, Any], stage: str, values: dict[str, Any]) -> None:
        place[stage] = values
        self.write()

    def finish(self) -> None:
        """Add the targets and the summary."""
        self.values["minutes"] = (time.monotonic() - self._start) / 60
        if found := targets(self.values.get("full", {})):
            self.values["targets"] = found
        self.values["summary"] = summary(self.values, BACKENDS[self._options.device])
        self.write()

    def write(self) -> None:
        write_whole(self._options.out, (json.dumps(finite(self.values), indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
