"""Check the promise of `seqpar calibrate --max-error`: how often the error is above the bound.

    .venv/bin/python benchmarks/error_bound.py --people PEOPLE.csv

The people are the split `test` of the table, which the demo model was not trained on.

**Simulation.** The calibrated probabilities of the people are taken as true. Each round draws as many groups of people,
with replacement, as the fit is to have, draws their labels, fits maps and the limit on them, and compares the bound
with the true error of the decided states over all people. Errors are drawn with an effect of the group and one of the
person (a Gaussian copula, which leaves the probabilities as they are).

**Halves.** Each round deals the groups to two halves, fits maps and the limit on one half, and counts the errors on the
other. The count has noise of its own: even if the error is exactly at the bound, half of the counts are above. The
halves also depend on each other, because an error that is missing in one is in the other. So the result has the share
of counts above the bound, and of those that are above it by more than chance (one-sided, 5 %, with design effect).

A round that promises nothing breaks no promise. The share is of all rounds. The share of rounds with a promise is
beside it, and is not what `--confidence` bounds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from demo_bundle import export_demo

from seqpar_deploy.backends import open_backend
from seqpar_deploy.calibration.probabilities import attribute_probabilities
from seqpar_deploy.datasets.table import load_table
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.evaluation.fitting.error_bound import ErrorBound, bound_error, symmetric, upper_bound
from seqpar_deploy.evaluation.fitting.maps import fit_maps
from seqpar_deploy.evaluation.generate import Model, generate
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine

RESULT = Path(__file__).parent / "results" / "error_bound.json"
ERRORS = (0.02, 0.03, 0.05)
CONFIDENCE = 0.9
GROUP_EFFECT, PERSON_EFFECT = 0.1, 0.1  # shares of the variance: design effects are then 1.4 at 2 % (real: 1.5)

Labels = npt.NDArray[np.int8]
Floats = npt.NDArray[np.floating]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, required=True, help="CSV of real people, with groups")
    parser.add_argument("--rounds", type=int, default=1000, help="rounds of each kind; default: 1000")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file; default: benchmarks/results")
    options = parser.parse_args()
    people = People(options.people)
    groups = len(people.members)
    rounds = range(options.rounds)
    result = {
        "people": len(people.labels),
        "groups": groups,
        "known_cells": int((people.labels >= 0).sum()),
        "confidence": CONFIDENCE,
        "rounds": options.rounds,
        "simulation": summary([people.simulate(groups, np.random.default_rng((1, k))) for k in rounds]),
        "simulation_of_halves": summary([people.simulate(groups // 2, np.random.default_rng((2, k))) for k in rounds]),
        "halves": summary([people.split(np.random.default_rng((3, k))) for k in rounds]),
        "machine": describe_machine(),
    }
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(result, indent=2))


class People:
    """The people, the demo model's probabilities of them, and calibrated ones."""

    def __init__(self, people: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            bundle = export_demo(Path(folder) / "demo")
            dataset = load_table(people, bundle.label_set, "test")
            model = Model.of_bundle(bundle, open_backend(bundle, "onnxruntime"))
            generations = generate(model, dataset, Greedy())
            model.backend.close()
        self.exclusive = bundle.label_set.exclusive
        self.labels = dataset.labels
        names = dataset.groups or tuple(map(str, range(len(dataset))))
        self.place = np.unique(np.asarray(names), return_inverse=True)[1]
        self.members = [np.flatnonzero(self.place == group) for group in range(self.place.max() + 1)]
        self.decoded = np.array([attribute_probabilities(one.tokens, one.distributions) for one in generations])
        self.true = np.asarray(fit_maps(self.decoded, self.labels, list(names)).maps(self.decoded), dtype=np.float64)

    def simulate(self, groups: int, generator: np.random.Generator) -> dict[float, dict[str, float] | None]:
        """Draw groups and their labels, fit, and compare with the true error over all people."""
        drawn = generator.integers(len(self.members), size=groups)
        rows = np.concatenate([self.members[group] for group in drawn])
        names = np.repeat(np.arange(groups), [len(self.members[group]) for group in drawn])
        labels = np.where(self.labels[rows] >= 0, self._draw_labels(rows, names, generator), -1).astype(np.int8)
        known = self.labels >= 0

        def check(found: ErrorBound, codes: Labels) -> dict[str, float]:
            wrong = np.where(codes == 1, 1 - self.true, self.true)[known & (codes >= 0)]
            return {"error": float(wrong.mean()), "coverage": len(wrong) / int(known.sum())}

        return self._fit(rows, labels, names, np.arange(len(self.labels)), check)

    def split(self, generator: np.random.Generator) -> dict[float, dict[str, float] | None]:
        """Fit on one half of the groups, and count the errors on the other."""
        chosen = generator.permutation(len(self.members))[: len(self.members) // 2]
        first = np.isin(self.place, chosen)
        rows, others = np.flatnonzero(first), np.flatnonzero(~first)
        known = self.labels[others] >= 0

        def check(found: ErrorBound, codes: Labels) -> dict[str, float]:
            decided = known & (codes >= 0)
            wrong = decided & (codes != self.labels[others])
            low = 1 - upper_bound(
                1 - wrong.sum() / decided.sum(),
                decided.sum() / found.design_effect,
                0.95,
                freedom=len(set(self.place[others].tolist())) - 1,
            )
            return {
                "error": float(wrong.sum() / decided.sum()),
                "at_least": low,
                "coverage": float(decided.sum() / known.sum()),
            }

        return self._fit(rows, self.labels[rows], self.place[rows], others, check)

    def _fit(
        self, rows: npt.NDArray[np.intp], labels: Labels, names: npt.NDArray[np.intp], others: Any, check: Any
    ) -> dict[float, dict[str, float] | None]:
        """Fit on some people, and check the limit of each greatest error on others. None without a promise."""
        groups = [str(name) for name in names.tolist()]
        fitted = fit_maps(self.decoded[rows], labels, groups)
        calibrated = fitted.maps(self.decoded[others])
        results: dict[float, dict[str, float] | None] = {}
        for max_error in ERRORS:
            try:
                found = bound_error(
                    fitted.held_out,
                    labels,
                    groups,
                    max_error=max_error,
                    confidence=CONFIDENCE,
                    exclusive=self.exclusive,
                )
            except CalibrationError:
                results[max_error] = None
                continue
            codes = symmetric(found.limit, labels.shape[1], self.exclusive).codes(calibrated)
            results[max_error] = {**check(found, codes), "limit": found.limit, "design_effect": found.design_effect}
        return results

    def _draw_labels(
        self, rows: npt.NDArray[np.intp], names: npt.NDArray[np.intp], generator: np.random.Generator
    ) -> npt.NDArray[np.bool_]:
        """Draw labels whose probability is `true`, and that err together in a group and in a person."""
        from scipy.special import ndtri

        chances = self.true[rows]
        own = 1 - GROUP_EFFECT - PERSON_EFFECT
        effect = np.sqrt(own) * generator.standard_normal(chances.shape)
        effect += np.sqrt(PERSON_EFFECT) * generator.standard_normal((len(rows), 1))
        effect += np.sqrt(GROUP_EFFECT) * generator.standard_normal(int(names.max()) + 1)[names][:, None]
        wrong = effect < ndtri(np.minimum(chances, 1 - chances))
        return (chances >= 0.5) != wrong


def summary(rounds: list[dict[float, dict[str, float] | None]]) -> dict[str, Any]:
    """Count how often each promise is made and broken."""
    result: dict[str, Any] = {}
    for max_error in ERRORS:
        made = [one for each in rounds if (one := each[max_error])]
        above = sum(one["error"] > max_error for one in made)
        values: dict[str, Any] = {
            "promised": len(made) / len(rounds),
            "kept": 1 - above / len(rounds),
            "kept_of_promised": 1 - above / len(made) if made else None,
        }
        if made and "at_least" in made[0]:
            values["above_by_more_than_chance"] = sum(one["at_least"] > max_error for one in made) / len(rounds)
        for key in ("error", "coverage", "limit", "design_effect") if made else ():
            values[f"{key}_quartiles"] = [
                round(float(q), 5) for q in np.quantile([one[key] for one in made], (0.25, 0.5, 0.75))
            ]
        result[f"{max_error:g}"] = values
    return result


if __name__ == "__main__":
    main()
