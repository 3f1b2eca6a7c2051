"""Write models/demo/README.md, the demo model's card, from the results of demo_model.py and demo_ablation.py.

.venv/bin/python benchmarks/demo_card.py
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from demo_model import MODEL, RESULTS, ROOT

VARIANTS = {
    "everything": "everything",
    "no-real": "without real people",
    "no-rendered": "without rendered people",
    "no-augmentation": "without augmentation",
}

LIMITS = """\
- There are few real people, and few examples of rare attributes: 12 children, 29 people over 60, 26 with boots. A score
  from a handful of people means little. The street test shows five people in many frames.
- The command trains a similar model, not this exact one. In the first training one layer was not seeded, and the second
  training ran on another machine. Pictures drawn twice in an epoch then had the same augmentation, which has changed.
- FP16 may change a few sequences per 5,000, see the table of bundles.
- Gender and age are perceived, as labelled by one labeller.
- Scores on rendered people do not carry over to real people.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    card_file = MODEL.parent / "README.md"
    parser.add_argument(
        "--out", type=Path, default=card_file, help=f"output file; default: {card_file.relative_to(ROOT)}"
    )
    options = parser.parse_args()
    result = read("demo-model.json")
    ablation = read("demo-ablation.json") if (RESULTS / "demo-ablation.json").exists() else None
    options.out.write_text(card(result, ablation), encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return values


def card(result: dict[str, Any], ablation: dict[str, Any] | None) -> str:
    tests = {"rendered": result["rendered"], "people": result["people"], "street": result["street"]}
    pictures = result["recipe"]["recipe"]["pictures_per_epoch"] * sum(result["epochs"])
    names = {"rendered": "rendered", "people": "real", "street": "street"}
    scores = "\n".join(
        f"| {names[name]} | {values['data']['people']:,} | "
        + " | ".join(f"{values['metrics'][key]:.4f}" for key in ("ma", "accuracy", "precision", "recall", "f1"))
        + " |"
        for name, values in tests.items()
    )
    exported = exported_rows(result)
    attributes = "\n".join(
        f"| {name} | "
        + " | ".join(attribute_cells(values["metrics"]["attributes"][name]) for values in tests.values())
        + " |"
        for name in tests["rendered"]["metrics"]["attributes"]
    )
    architecture, model = result["recipe"]["recipe"]["model"]["architecture"], vision(result)
    text = f"""# The demo model

A small SequencePAR with PA-100K's 26 attributes. The demo, the checks and the benchmarks use it as a trained model.
**It is not for use on people.** It learned mostly from rendered pictures, and from 870 pictures of real people.

`demo.safetensors` has {result["bytes"] / 1e6:.1f} MB. Weights are stored in float16 and read as float32. Rows of the
text tower for words that no phrase uses are left out, which saves nine tenths of the size. The encoder is a ViT of
{model["layers"]} layers, {model["width"]} wide, for pictures of {model["image_size"]} px, behind a convolutional stem.
The decoder has {architecture["layers"]} layers. `train/demo.toml` is the recipe.

## Training
{training_section(result, pictures)}

## Scores
These are the published metrics, as fractions. Unknown labels are left out.

| test | people | mA | Acc | Prec | Recall | F1 |
|---|---|---|---|---|---|---|
{scores}

- **rendered**: test set from a seed that training did not use (**synthetic**).
- **real**: people held out of training, a fixed fifth of the groups of Penn-Fudan and MIT.
- **street**: held-out tracks of the street video, each 5th frame (`samples/vtest`).

Baselines on the real people: the constant answer "age 18 to 60, long sleeve, trousers" has F1 0.643. HOG and colour
features with logistic regression have F1 0.75.

Bundles against the checkpoint in PyTorch, on the rendered test set:

| bundle | F1 | mA | different sequences |
|---|---|---|---|
{exported}

## Ablation
{ablation_section(ablation, pictures)}

## Attributes
Recall of yes / recall of no, and the number of people with the attribute among those with a known label.

| attribute | rendered | real | street |
|---|---|---|---|
{attributes}

## Limits

{LIMITS}"""
    return rewrapped(text)


def training_section(result: dict[str, Any], pictures: int) -> str:
    training, machine = result["training"], result["rendered"]["machine"]
    first, second = result["epochs"]
    return f"""\
The training uses OpenCV's `vtest.avi` (`samples/vtest`) and a table of labelled pictures (`docs/datasets.md`). The
table is not published.

```bash
.venv/bin/python examples/cut_tracks.py vtest.avi runs/vtest
.venv/bin/python benchmarks/demo_model.py --people people/labels.csv --street runs/vtest/people.csv
```

The second command renders 40,000 people (`seqpar synth`, **synthetic**) and trains on them for {first} epochs. Then it
renders 60,000 others, trains for {second} more epochs, and scores the result. The model sees {pictures:,} pictures:

| share | source |
|---|---|
| 84 % | rendered people |
| 13 % | 870 pictures of real people from Penn-Fudan and MIT CBCL |
| 3 % | 455 crops of five people from the training tracks of the street video |

The real pictures were labelled for this project by eye, with unknowns. Both sources are research datasets, and their
pictures are not here. The weights are those of the last step, not chosen by any test set. During development only the
rendered validation set was used, never the tests below.

Speed: {training["images_per_second_median"]:.0f} pictures per second (median of the epochs), with
{training["waiting_median"]:.1%} of the time spent waiting for pictures, on {machine["processor"]}, {machine["cores"]}
cores, in bf16. Two training processes ran, with one reading process each."""


def rewrapped(text: str) -> str:
    """Fill paragraphs, whose lines differ in length by the values in them."""
    blocks = text.split("\n\n")
    return "\n\n".join(_filled(block) if re.match(r"\w|`\w", block) else block for block in blocks)


def _filled(block: str) -> str:
    return textwrap.fill(" ".join(block.split()), 120, break_long_words=False, break_on_hyphens=False)


def exported_rows(result: dict[str, Any]) -> str:
    return "\n".join(
        f"| {recipe.upper()} on {backend} | {values['f1']:.4f} | {values['ma']:.4f} | "
        f"{values['different_sequences']} of {result['rendered']['data']['people']:,} |"
        for recipe, backends in result["after_export"].items()
        for backend, values in backends.items()
    )


def ablation_section(ablation: dict[str, Any] | None, pictures: int) -> str:
    if ablation is None:
        return "Not yet measured. `benchmarks/demo_ablation.py` measures it."
    rows = "\n".join(
        f"| {text} | "
        + " | ".join(f"{ablation[name][test]['f1']:.4f}" for test in ("rendered", "people", "street"))
        + " |"
        for name, text in VARIANTS.items()
    )
    return f"""Short trainings on {ablation["epochs"] * 8000:,} of the {pictures:,} pictures, F1:

| trained on | rendered | real | street |
|---|---|---|---|
{rows}

They are short, so they show the effect early in training, not at its end."""


def vision(result: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = result["recipe"]["recipe"]["model"]["architecture"]["vision"]
    return values


def attribute_cells(values: dict[str, Any]) -> str:
    if not values["known"]:
        return "unknown"
    yes = f"{values['recall_yes']:.2f}" if values["positives"] else "-"
    no = f"{values['recall_no']:.2f}" if values["positives"] < values["known"] else "-"
    return f"{yes} / {no}, {values['positives']:,} of {values['known']:,}"


if __name__ == "__main__":
    main()
