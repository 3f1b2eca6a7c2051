"""Make the demo model: render people, train three times, save the weights in FP16, and score them.

The scores are those before and after export.

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
TRIMMED_RENDERED = RUNS / "rendered-trimmed"
# Three trainings, each with drawings of its own; each goes on from the weights of the one before. The first two read
# whole crops, and the last one, of the recipe demo-trim, trimmed ones. The test's drawings are another seed's again.
FIRST_EPOCHS, MORE_EPOCHS, TRIMMED_EPOCHS, TEST_SEED = 40, 56, 13, 1000


def main() -> None:
    options = arguments(__doc__, RESULTS / "demo-model.json")
    first, more, out = RUNS / "demo-first", RUNS / "demo", RUNS / "demo-trimmed"
    draw(RENDERED_TEST, test=5000, seed=TEST_SEED)
    if not options.score_only:
        draw(RENDERED, train=40000, val=1000, seed=0)
        draw(MORE_RENDERED, train=60000, seed=1)
        draw(TRIMMED_RENDERED, train=30000, val=1000, seed=2)
        train(whole_crops(), first, sources(options, RENDERED), "--epochs", FIRST_EPOCHS, "--validate-every", 4)
        start = ["--from", weights_of(first), "--epochs", MORE_EPOCHS, "--seed", 1, "--validate-every", 4]
        train(whole_crops(), more, sources(options, MORE_RENDERED), *start)
        start = ["--from", weights_of(more), "--epochs", TRIMMED_EPOCHS, "--validate-every", 20]
        train("demo-trim", out, sources(options, TRIMMED_RENDERED), *start, validation=TRIMMED_RENDERED)
    store(out / "last.safetensors", MODEL)
    earlier = json.loads(options.out.read_text())["training"] if options.out.exists() else {}
    result: dict[str, Any] = {
        "bytes": MODEL.stat().st_size,
        "architecture": architecture(MODEL),
        "recipe": json.loads((out / "recipe.json").read_text()),
        "epochs": [FIRST_EPOCHS, MORE_EPOCHS, TRIMMED_EPOCHS],
        "training": earlier | {run.name: speed(run) for run in (first, more, out) if (run / "log.csv").exists()},
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


def whole_crops() -> Path:
    """Write the recipe `demo` for whole crops, and return its file."""
    text = (ROOT / "train" / "demo.toml").read_text()
    path = RUNS / "demo-whole.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace("trim = true", "trim = false"))
    return path


def train(recipe: str | Path, out: Path, shares: dict[str, float], *more: object, validation: Path = RENDERED) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "seqpar_deploy", "train", "--label-set", "pa100k", "--recipe", str(recipe)]
    for source, share in shares.items():
        command += ["--data", f"{source}={share}"]
    run(*command, "--out", out, "--validation", f"{validation}@val", *more, environment={"OMP_NUM_THREADS": "1"})


def speed(run_folder: Path) -> dict[str, float]:
    """Return a training's pictures per second, and the share of the time spent on waiting for pictures."""
    with (run_folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = ("images_per_second", "waiting")
    return {f"{column}_median": statistics.median(float(row[column]) for row in rows) for column in columns}


def weights_of(run_folder: Path) -> Path:
    """Return the file of a training's weights as they are stored, in float16: the next one starts from these."""
    path = run_folder.with_suffix(".safetensors")
    store(run_folder / "last.safetensors", path)
    return path


def store(trained: Path, path: Path) -> None:
    """Save the weights in float16, without the embeddings of words that no phrase uses."""
    import torch

    from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
    from seqpar_deploy.resources import load_label_set

    label_set = load_label_set("pa100k")
    checkpoint = load_checkpoint(trained)
    metadata = {"training": checkpoint.metadata.get("training")}
    save_checkpoint(path, build_model(checkpoint, label_set), label_set, dtype=torch.float16, metadata=metadata)


def architecture(path: Path) -> dict[str, Any]:
    from seqpar_deploy.modeling.checkpoint import load_checkpoint

    values: dict[str, Any] = load_checkpoint(path).metadata["architecture"]
    return values


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
