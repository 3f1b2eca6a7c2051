"""Measure probabilities, calibration and thresholds of the demo model by nested cross-validation over groups.

    .venv/bin/python benchmarks/calibration.py --people PEOPLE.csv

The people are the split `test` of the table, which the demo model was not trained on. In each fold, everything is
fitted on the other folds: the maps with their shrinkage, and the thresholds on cross-fitted probabilities of these
people. Intervals are 95 % bootstrap intervals by group.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from demo_bundle import export_demo

from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.datasets.table import load_table
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.evaluation.fitting.candidates import CANDIDATES
from seqpar_deploy.evaluation.fitting.maps import cross_fitted, deal_groups, fit_maps
from seqpar_deploy.evaluation.fitting.thresholds import Rule, choose_thresholds
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate, probabilities_of
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.evaluation.probability_metrics import compute_probability_metrics
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine

RESULT = Path(__file__).parent / "results" / "calibration.json"
RULES = {
    "probable": Rule(objective="probable"),
    "f1": Rule(objective="f1"),
    "ma": Rule(objective="ma"),
    "max-error 0.02, confidence 0.9": Rule(objective="max_error", value=0.02, confidence=0.9),
}
FOLDS, RESAMPLES = 10, 2000

Floats = npt.NDArray[np.floating]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, required=True, help="CSV of real people, with groups")
    parser.add_argument(
        "--out", type=Path, default=RESULT, help="JSON file; default: benchmarks/results/calibration.json"
    )
    parser.add_argument("--bundle", type=Path, help="bundle of the demo model; default: export it")
    options = parser.parse_args()
    study = Study(options.people, options.bundle)
    result = {
        "people": len(study.labels),
        "groups": len(set(study.groups)),
        "known_cells": int((study.labels >= 0).sum()),
        "emitted": study.emitted_scores(),
        "maps": {name: study.map_scores(name, fit) for name, fit in CANDIDATES.items()},
        "chosen_against_uncalibrated": study.gain(),
        "thresholds": {name: study.rule_scores(name, rule) for name, rule in RULES.items()},
        "machine": describe_machine(),
    }
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(result, indent=2))


class Study:
    """The people, the demo model's probabilities of them, and what cross-validation makes of them."""

    def __init__(self, people: Path, bundle_path: Path | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Bundle.open(bundle_path) if bundle_path else export_demo(Path(folder) / "demo")
            self.label_set = bundle.label_set
            dataset = load_table(people, self.label_set, "test")
            model = Model.of_bundle(bundle, open_backend(bundle, "onnxruntime"))
            generations = generate(model, dataset, Greedy())
            model.backend.close()
        self.labels = dataset.labels
        self.groups = dataset.groups or tuple(map(str, range(len(dataset))))
        self.probabilities = probabilities_of(generations)
        self.emitted = attributes_of(generations, len(self.label_set))
        self.folds = deal_groups(self.groups, FOLDS, seed=0)

    def emitted_scores(self) -> dict[str, Any]:
        metrics = compute_metrics(self.emitted, self.labels)
        scores = self._scores(self.emitted.astype(np.float64))
        return {"ma": metrics.ma, "f1": metrics.f1, "auc": scores["auc"]}

    def map_scores(self, name: str, fit: Callable[..., Callable[[Floats], Floats]]) -> dict[str, Any]:
        """Return the held-out scores of a kind of map."""
        start = time.monotonic()
        scores = self._scores(self._held_out(fit))
        progress(f"{name}: NLL {scores['nll'][0]:.4f}, {time.monotonic() - start:.0f} s")
        return scores

    def gain(self) -> dict[str, Any]:
        """Return ECE, NLL and AUC of the maps that `seqpar calibrate` fits, against the probabilities before."""
        calibrated = self._held_out(lambda p, y, g: fit_maps(p, y, g).maps)
        before, after = self._scores(self.probabilities), self._scores(calibrated)
        emitted = self._scores(self.emitted.astype(np.float64))
        return {
            "ece_ratio": after["ece"][0] / before["ece"][0],
            "nll_difference": self._difference(lambda p, y: nll(p, y), calibrated, self.probabilities),
            "auc_above_emitted": before["auc"][0] - emitted["auc"][0],
        }

    def rule_scores(self, name: str, rule: Rule) -> dict[str, Any]:
        """Return mA, F1, coverage and error of the states that a rule gives."""
        states = np.full_like(self.labels, -1)
        for held in self.folds:
            rest = ~held
            groups = [group for group, keep in zip(self.groups, rest, strict=True) if keep]
            inner = cross_fitted(self.probabilities[rest], self.labels[rest], groups)
            maps = fit_maps(self.probabilities[rest], self.labels[rest], groups).maps
            try:
                chosen = choose_thresholds(rule, inner, self.labels[rest], self.label_set, groups)
            except CalibrationError:  # these people promise nothing: all stays unknown
                continue
            states[held] = chosen.thresholds.codes(maps(self.probabilities[held]))
        known = self.labels >= 0
        decided = known & (states >= 0)
        metrics = compute_metrics(states == 1, self.labels)
        scores = {
            "ma": metrics.ma,
            "f1": metrics.f1,
            "coverage": float(decided.sum() / known.sum()),
            "error": float((states != self.labels)[decided].mean()),
        }
        progress(f"{name}: {scores}")
        return scores

    def _held_out(self, fit: Callable[..., Callable[[Floats], Floats]]) -> Floats:
        out = np.zeros(self.probabilities.shape)
        for held in self.folds:
            rest = ~held
            groups = [group for group, keep in zip(self.groups, rest, strict=True) if keep]
            out[held] = fit(self.probabilities[rest], self.labels[rest], groups)(self.probabilities[held])
        return out

    def _scores(self, probabilities: Floats) -> dict[str, tuple[float, float, float]]:
        """Return each score with its interval: value, low, high."""
        metrics = compute_probability_metrics(probabilities, self.labels, groups=self.groups, resamples=RESAMPLES)
        found = {name: getattr(metrics, name) for name in ("ece", "nll", "brier", "auc", "average_precision")}
        return {name: (one.value, one.low, one.high) for name, one in found.items()}

    def _difference(
        self, of: Callable[[Floats, Floats], Floats], ours: Floats, theirs: Floats
    ) -> tuple[float, float, float]:
        """Return the difference of a mean over cells, with its interval."""
        known = self.labels >= 0
        cells = np.where(known, of(ours, self.labels) - of(theirs, self.labels), 0.0)
        _, place = np.unique(self.groups, return_inverse=True)
        sums = np.bincount(place, weights=cells.sum(axis=1))
        counts = np.bincount(place, weights=known.sum(axis=1))
        drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        return float(sums.sum() / counts.sum()), float(low), float(high)


def nll(probabilities: Floats, labels: Floats) -> Floats:
    limited = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.where(labels == 1, -np.log(limited), -np.log(1 - limited))


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
