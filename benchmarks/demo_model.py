"""Make the demo model: render people, train, save the weights in FP16, and score them before and after export.

    .venv/bin/python benchmarks/demo_model.py --people PEOPLE.csv [--street runs/vtest/people.csv] [--score-only]

It writes models/demo/demo.safetensors and the JSON file of the figures in models/demo/README.md. An interrupted run
resumes. On two cores, two training processes with one core each are faster than one process with both.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUNS = ROOT / "runs"
MODEL = ROOT / "models" / "demo" / "demo.safetensors"
RESULTS = ROOT / "benchmarks" / "results"
SEQPAR = Path(sys.executable).parent / "seqpar"

RENDERED, MORE_RENDERED, RENDERED_TEST = RUNS / "rendered", RUNS / "rendered-more", RUNS / "rendered-test"
# Two trainings, each with drawings of its own; the second goes on from the first's weights. The test's drawings are
# another seed's again.
FIRST_EPOCHS, MORE_EPOCHS, TEST_SEED = 40, 56, 1000


def main() -> None:
    options = arguments(__doc__, RESULTS / "demo-model.json")
    first, out = RUNS / "demo-first", RUNS / "demo"
    draw(RENDERED_TEST, test=5000, seed=TEST_SEED)
    if not options.score_only:
        draw(RENDERED, train=40000, val=1000, seed=0)
        draw(MORE_RENDERED, train=60000, seed=1)
        train("demo", first, sources(options, RENDERED), "--epochs", FIRST_EPOCHS, "--validate-every", 4)
        start = first.with_suffix(".safetensors")
        store(first / "last.safetensors", start)
        more = ["--from", start, "--epochs", MORE_EPOCHS, "--seed", 1, "--validate-every", 4]
        train("demo", out, sources(options, MORE_RENDERED), *more)
    store(out / "last.safetensors", MODEL)
    result: dict[str, Any] = {
        "bytes": MODEL.stat().st_size,
        "recipe": json.loads((out / "recipe.json").read_text()),
        "epochs": [FIRST_EPOCHS, MORE_EPOCHS],
        "training": speed(out),
    }
    for name, (data, split) in tests(options).items():
        result[name] = score(MODEL, name, data, split)
    result["after_export"] = {recipe: export_and_score(recipe) for recipe in ("fp32", "fp16")}
    write(options.out, result)


def arguments(description: str | None, out: Path) -> argparse.Namespace:
    """Parse the options, which demo_model.py and demo_ablation.py share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, required=True, help="CSV of real people, with groups")
    parser.add_argument(
        "--street", type=Path, help="CSV of people cut from the street video, by examples/cut_tracks.py"
    )
    parser.add_argument("--score-only", action="store_true", help="store and score a finished training")
    parser.add_argument("--out", type=Path, default=out, help=f"JSON file; default: {out.relative_to(ROOT)}")
    return parser.parse_args()


def draw(folder: Path, *, train: int = 0, val: int = 0, test: int = 0, seed: int) -> None:
    run(SEQPAR, "synth", folder, "--train", train, "--val", val, "--test", test, "--seed", seed)


def sources(options: argparse.Namespace, rendered: Path) -> dict[str, float]:
    """Return the data sets of the training and their shares."""
    shares = {f"{rendered}@train": 0.84, f"{options.people}@train": 0.13}
    return shares | ({f"{options.street}@train": 0.03} if options.street else {})


def tests(options: argparse.Namespace) -> dict[str, tuple[Path, str]]:
    found = {"rendered": (RENDERED_TEST, "test"), "people": (options.people, "test")}
    return found | ({"street": (options.street, "held_out")} if options.street else {})


def train(recipe: str | Path, out: Path, shares: dict[str, float], *more: object) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "seqpar_deploy", "train", "--label-set", "pa100k", "--recipe", str(recipe)]
    for source, share in shares.items():
        command += ["--data", f"{source}={share}"]
    run(*command, "--out", out, "--validation", f"{RENDERED}@val", *more, environment={"OMP_NUM_THREADS": "1"})


def speed(run_folder: Path) -> dict[str, float]:
    """Return a training's pictures per second, and the share of the time spent on waiting for pictures."""
    with (run_folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = ("images_per_second", "waiting")
    return {f"{column}_median": statistics.median(float(row[column]) for row in rows) for column in columns}


def store(trained: Path, path: Path) -> None:
    """Save the weights in float16, without the embeddings of words that no phrase uses."""
    import torch

    from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
    from seqpar_deploy.resources import load_label_set

    label_set = load_label_set("pa100k")
    checkpoint = load_checkpoint(trained)
    metadata = {"training": checkpoint.metadata.get("training")}
    save_checkpoint(path, build_model(checkpoint, label_set), label_set, dtype=torch.float16, metadata=metadata)


def score(model: Path, name: str, data: Path, split: str, *more: object) -> dict[str, Any]:
    """Run `seqpar eval`, with the sequences and a picture in runs/."""
    out = RUNS / f"{model.stem}-{name}.json"
    files = ["--output", out, "--picture", out.with_suffix(".png"), "--predictions", out.with_suffix(".jsonl")]
    run(SEQPAR, "eval", model, "--data", data, "--split", split, *files, *more)
    values: dict[str, Any] = json.loads(out.read_text())
    return values


def export_and_score(recipe: str) -> dict[str, Any]:
    """Return the bundle's scores on each backend, and the number of sequences that differ from the checkpoint's."""
    bundle = RUNS / f"demo-{recipe}"
    export = Path(sys.executable).parent / "seqpar-export"
    run(export, "checkpoint", MODEL, "--recipe", recipe, "--out", bundle, "--overwrite")
    found = {}
    for backend in ("onnxruntime", "openvino"):
        against = ["--backend", backend, "--against", RUNS / f"{MODEL.stem}-rendered.jsonl"]
        values = score(bundle, f"rendered-{backend}", RENDERED_TEST, "test", *against)
        overall = {key: value for key, value in values["metrics"].items() if key != "attributes"}
        found[backend] = {"different_sequences": values["against"]["different"], **overall}
    return found


def write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def run(*command: object, environment: dict[str, str] | None = None) -> None:
    print("$", *command, flush=True)
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, **(environment or {})})


if __name__ == "__main__":
    main()
