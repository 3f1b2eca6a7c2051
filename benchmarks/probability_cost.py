"""Measure the cost of the probabilities and states of a prediction, for the demo model on each CPU backend.

    .venv/bin/python benchmarks/probability_cost.py

It takes about 5 minutes. Two variants are interleaved on the same crops, in changing order: `predict` as it is, with a
calibration and thresholds, and `predict` without probabilities, as before they existed. The decoder's steps are counted
in both. The time that they add to `predictions_from_generations` is measured too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import export_demo

from seqpar_deploy import Bundle, Greedy, Prediction, Recognizer, Speculative, recognizer
from seqpar_deploy.backends import Backend, open_backend
from seqpar_deploy.calibration.maps import LogisticMaps
from seqpar_deploy.calibration.sidecar import BINS, AttributeCalibration, Calibration, FittingData
from seqpar_deploy.cli.console import stage
from seqpar_deploy.decoding import Generation, Strategy
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.prediction import predictions_from_generations
from seqpar_deploy.preprocess import prepare_batch
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "probability_cost.json"
BACKENDS = ("onnxruntime", "openvino")
STRATEGIES: dict[str, Strategy] = {"greedy": Greedy(), "speculative": Speculative()}
BATCHES = (1, 16)
NOTHING = np.zeros(0, dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help="pairs of runs per case; default: 100")
    parser.add_argument("--bundle", type=Path, help="the demo model's fp32 bundle; default: export it")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "probability-cost", help="folder for the bundle")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle) if options.bundle else export_demo(options.work / "demo", progress=stage)
    cases = []
    for name in BACKENDS:
        for strategy in STRATEGIES:
            for batch in BATCHES:
                with stage(f"{name}, {strategy}, batches of {batch}"):
                    cases.append(measure(bundle, name, strategy, batch, max(5, options.rounds // math.isqrt(batch))))
                print(cases[-1], flush=True)
    values = {
        "what": "time of predict() with probabilities, maps and states, against predict() without, in pairs",
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine() | {"python": platform.python_version()},
        "extra_steps": sum(case["steps_with"] - case["steps_without"] for case in cases),
        "largest_share": max(case["share_of_predict"] for case in cases),
        "cases": cases,
    }
    write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())


def without_probabilities(generations: list[Generation], label_set: LabelSet, **_: Any) -> list[Prediction]:
    """Return what predictions had before: attributes and scores."""
    return [_without(generation, label_set) for generation in generations]


def _without(generation: Generation, label_set: LabelSet) -> Prediction:
    log_prob_of: dict[int, float] = {}
    for token, log_prob in zip(generation.tokens, generation.log_probs, strict=True):
        if token >= FIRST_ATTRIBUTE:
            log_prob_of.setdefault(token, log_prob)
    tokens = sorted(log_prob_of)
    return Prediction(
        attributes=tuple(label_set.attributes[token - FIRST_ATTRIBUTE].name for token in tokens),
        scores=tuple(math.exp(min(0.0, log_prob_of[token])) for token in tokens),
        probabilities=NOTHING,
        states=(),
        tokens=generation.tokens,
        steps=generation.steps,
    )


@contextmanager
def predicting(how: Callable[..., list[Prediction]]) -> Iterator[None]:
    before = recognizer.predictions_from_generations
    recognizer.predictions_from_generations = how  # type: ignore[attr-defined]
    try:
        yield
    finally:
        recognizer.predictions_from_generations = before  # type: ignore[attr-defined]


class Counting:
    """A backend that counts its decoder steps."""

    def __init__(self, backend: Backend[Any]) -> None:
        self._backend, self.steps = backend, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, *arguments: Any) -> Any:
        self.steps += 1
        return self._backend.step(*arguments)


def some_calibration(label_set: LabelSet) -> Calibration:
    """Maps and thresholds of any kind: their values do not change the time."""
    one = AttributeCalibration(
        slope=0.8, offset=0.1, map="own", positives=10, negatives=10, distribution=(1,) * BINS, yes=0.6, no=0.4
    )
    data = FittingData(name="none", split="none", sha256="", people=20, groups=20)
    return Calibration(data=data, rule={}, attributes={attribute.name: one for attribute in label_set.attributes})


def measure(bundle: Bundle, name: str, strategy: str, batch: int, rounds: int) -> dict[str, Any]:
    """Time pairs of the two variants. The order within a pair alternates, and each pair has other crops."""
    crops = [read_image(path) for path in sample_crops()]
    calibration = some_calibration(bundle.label_set)
    variants = {"with": predictions_from_generations, "without": without_probabilities}
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    steps = dict.fromkeys(variants, 0)
    backend: Any = Counting(open_backend(bundle, name))  # type: ignore[arg-type]
    options: dict[str, Any] = {"strategy": STRATEGIES[strategy], "batch_size": batch, "calibration": calibration}
    with Recognizer(bundle, backend, **options) as recognize:
        for turn in range(-2, rounds):  # the first two are warm-ups
            some = [crops[(turn + place) % len(crops)] for place in range(batch)]
            for variant in list(variants)[:: 1 if turn % 2 else -1]:
                backend.steps = 0
                with predicting(variants[variant]):
                    start = time.perf_counter()
                    recognize.predict(some)
                    taken = time.perf_counter() - start
                if turn >= 0:
                    seconds[variant].append(taken)
                    steps[variant] += backend.steps
        prepared = prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)
        state = backend.encode(prepared)
        generations = STRATEGIES[strategy].generate(backend, state, max_steps=bundle.dimensions.capacity - 1)
    ratios = np.array(seconds["with"]) / np.array(seconds["without"])
    resampled = np.random.default_rng(0).choice(ratios, (1000, len(ratios)))
    cost = added_microseconds(generations[:batch], bundle.label_set, calibration.maps, calibration)
    per_crop = 1e6 * float(np.median(seconds["without"])) / batch
    return {
        "backend": name,
        "strategy": strategy,
        "batch": batch,
        "pairs": rounds,
        "steps_with": steps["with"],
        "steps_without": steps["without"],
        "ms_with": 1e3 * float(np.median(seconds["with"])),
        "ms_without": 1e3 * float(np.median(seconds["without"])),
        "median_ratio": float(np.median(ratios)),
        "median_ratio_95": np.quantile(np.median(resampled, axis=1), (0.025, 0.975)).tolist(),
        "added_us_per_crop": cost,
        "share_of_predict": cost / per_crop,
    }


def added_microseconds(
    generations: list[Generation], label_set: LabelSet, maps: LogisticMaps, calibration: Calibration
) -> float:
    """Return the median time per crop that probabilities, maps and states add to a prediction."""
    thresholds = calibration.thresholds(label_set)
    added = []
    for _ in range(50):
        start = time.perf_counter()
        predictions_from_generations(generations, label_set, maps=maps, thresholds=thresholds)
        middle = time.perf_counter()
        without_probabilities(generations, label_set)
        added.append((middle - start) - (time.perf_counter() - middle))
    return 1e6 * float(np.median(added)) / len(generations)


if __name__ == "__main__":
    main()
