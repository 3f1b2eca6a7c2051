"""Measure the effect of rendered people, real people and augmentation on the demo model, in short trainings.

    .venv/bin/python benchmarks/demo_ablation.py --people PEOPLE.csv [--street runs/vtest/people.csv]

All trainings read whole crops and see the same number of them; the demo model itself sees 14 times more. An
interrupted run resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from demo_model import (
    RENDERED,
    RENDERED_TEST,
    RESULTS,
    RUNS,
    TEST_SEED,
    arguments,
    draw,
    score,
    sources,
    store,
    tests,
    train,
    whole_crops,
    write,
)

EPOCHS = 8  # of the demo model's 109

NO_AUGMENTATION = """
[augmentation]
flip = false
shift = 0
"""


def main() -> None:
    options = arguments(__doc__, RESULTS / "demo-ablation.json")
    draw(RENDERED_TEST, test=5000, seed=TEST_SEED)
    draw(RENDERED, train=40000, val=1000, seed=0)
    result: dict[str, Any] = {"epochs": EPOCHS}
    for name, (recipe, shares) in variants(options).items():
        out = RUNS / "ablation" / name
        if not options.score_only:
            train(recipe, out, shares, "--epochs", EPOCHS, "--validate-every", EPOCHS)
        model = out / f"{name}.safetensors"
        store(out / "last.safetensors", model)
        result[name] = {
            test: {key: value for key, value in score(model, test, *where)["metrics"].items() if key != "attributes"}
            for test, where in tests(options).items()
        }
        write(options.out, result)


def variants(options: argparse.Namespace) -> dict[str, tuple[str | Path, dict[str, float]]]:
    everything = sources(options, RENDERED)
    rendered = {source: share for source, share in everything.items() if source.startswith(str(RENDERED))}
    real = {source: share for source, share in everything.items() if source not in rendered}
    return {
        "everything": (whole_crops(), everything),
        "no-real": (whole_crops(), rendered),
        "no-rendered": (whole_crops(), real),
        "no-augmentation": (without_augmentation(), everything),
    }


def without_augmentation() -> Path:
    text = whole_crops().read_text()
    changed = text[: text.index("[augmentation]")] + NO_AUGMENTATION
    path = RUNS / "ablation" / "no-augmentation.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(changed)
    return path


if __name__ == "__main__":
    main()
