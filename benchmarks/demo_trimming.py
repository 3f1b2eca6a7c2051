"""Compare the demo model's scores before and after it was fine-tuned on trimmed crops, on the same people.

    .venv/bin/python benchmarks/demo_trimming.py --before FULL.safetensors --people PEOPLE.csv \
        [--street runs/vtest/people.csv]

`--before` is the checkpoint that the fine-tuning started from. It is scored on whole crops, as it was trained, and on
trimmed ones without any training. Differences are paired: intervals are 95 % bootstrap intervals of the difference,
drawn by person for rendered people, by group for real people, and by the people of the street video.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from demo_model import MODEL, RESULTS, tests, write

from seqpar_deploy.datasets import Dataset, load_dataset
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import default_columns

RESAMPLES = 2000
SCORES = ("ma", "accuracy", "precision", "recall", "f1")

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.integer[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkpoint that the fine-tuning started from")
    parser.add_argument("--after", type=Path, default=MODEL, help="checkpoint after it; default: the demo model")
    parser.add_argument("--people", type=Path, required=True, help="CSV of real people, with groups")
    parser.add_argument("--street", type=Path, help="CSV of people cut from the street video")
    parser.add_argument("--out", type=Path, default=RESULTS / "demo-trimming.json", help="JSON file")
    options = parser.parse_args()
    models = {
        "full": load(options.before, trim=False),
        "trimmed_untrained": load(options.before, trim=True),
        "trimmed": load(options.after, trim=True),
    }
    result: dict[str, Any] = {
        "what": "published scores of three models on the same people, and paired differences from `full` as "
        f"[value, low, high] with 95 % intervals of {RESAMPLES} bootstrap samples over groups",
        "sha256": {name: model.sha256 for name, model in models.items()},
        "machine": describe_machine(),
    }
    for name, (path, split) in tests(options).items():
        dataset = load_dataset("pa100k", path, split)
        result[name] = compare({key: emitted(model, dataset) for key, model in models.items()}, dataset)
        print(name, json.dumps(result[name]), flush=True)
    write(options.out, result)


def load(path: Path, *, trim: bool) -> Model:
    """Return a checkpoint that reads crops trimmed or whole, whatever it was trained for."""
    from seqpar_deploy.modeling.eager import CachedEagerBackend
    from seqpar_deploy.modeling.load import load_network

    loaded = load_network(path)
    network = loaded.network
    columns = network.architecture.columns or default_columns(network.architecture.grid)
    network.architecture = dataclasses.replace(network.architecture, columns=columns if trim else ())
    return Model(
        name=path.name,
        kind="checkpoint",
        precision="fp32",
        sha256=loaded.sha256,
        label_set=loaded.label_set,
        image_size=network.architecture.image_size,
        max_rows=64,
        backend=CachedEagerBackend(network, loaded.token_table, loaded.label_set.preprocessing),
        trimming=network.architecture.trimming,
    )


def emitted(model: Model, dataset: Dataset) -> Codes:
    return attributes_of(generate(model, dataset, Greedy()), len(model.label_set)).astype(np.int8)


def compare(answers: dict[str, Codes], dataset: Dataset) -> dict[str, Any]:
    """Return the scores of each model, and the differences from the first one with their intervals."""
    labels = dataset.labels
    groups = dataset.groups or tuple(map(str, range(len(labels))))
    found: dict[str, Any] = {"people": len(labels), "groups": len(set(groups))}
    drawn = drawn_weights(groups)
    first = next(iter(answers))
    for name, predicted in answers.items():
        metrics = compute_metrics(predicted, labels)
        found[name] = {score: getattr(metrics, score) for score in SCORES}
        if name == first:
            continue
        found[name]["different_answers"] = int((predicted != answers[first]).any(axis=1).sum())
        for score, of in (("f1", f1), ("ma", ma)):
            value = found[name][score] - found[first][score]
            samples = of(predicted, labels, drawn) - of(answers[first], labels, drawn)
            found[name][f"{score}_difference"] = [value, *np.quantile(samples, [0.025, 0.975]).tolist()]
    return found


def drawn_weights(groups: tuple[str, ...]) -> Floats:
    """Return how often each person is in each bootstrap sample of groups, (samples, people)."""
    _, place = np.unique(groups, return_inverse=True)
    count = int(place.max()) + 1
    rng = np.random.default_rng(0)
    times = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
    return times[:, place]


def f1(predicted: Codes, labels: Codes, weights: Floats) -> Floats:
    """Return the published F1 of each bootstrap sample, the mean over people."""
    known = labels >= 0
    yes, said = labels == 1, (predicted == 1) & known
    both = (yes & said).sum(axis=1)
    each = 2 * both / np.maximum(yes.sum(axis=1) + said.sum(axis=1), 1)
    judged = known.any(axis=1)
    means: Floats = weights @ (each * judged) / (weights @ judged.astype(np.float64))
    return means


def ma(predicted: Codes, labels: Codes, weights: Floats) -> Floats:
    """Return the published mA of each bootstrap sample, the mean over attributes that have labels."""
    said = predicted == 1
    yes, no = labels == 1, labels == 0
    recall_yes = ratio(weights @ (yes & said), weights @ yes)
    recall_no = ratio(weights @ (no & ~said), weights @ no)
    judged = (labels >= 0).any(axis=0)
    means: Floats = ((recall_yes + recall_no) / 2)[:, judged].mean(axis=1)
    return means


def ratio(part: Floats, whole: Floats) -> Floats:
    return part / np.maximum(whole, 1e-20)


if __name__ == "__main__":
    main()
