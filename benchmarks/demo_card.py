"""Write models/demo/README.md, the demo model's card, from the results of demo_model.py and demo_ablation.py.

.venv/bin/python benchmarks/demo_card.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from demo_model import MODEL, RESULTS, ROOT

VARIANTS = {
    "everything": "everything",
    "no-real": "without real people",
    "no-rendered": "without rendered people",
    "no-augmentation": "without augmentation",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    card_file = MODEL.parent / "README.md"
    parser.add_argument("--out", type=Path, default=card_file, help=f"default: {card_file.relative_to(ROOT)}")
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
    machine = result["rendered"]["machine"]
    names = {
        "rendered": "rendered test set, drawn from a seed training never saw (**synthetic**)",
        "people": "real people held out: a fixed fifth of the groups of Penn-Fudan and MIT",
        "street": "street video, held-out tracks, each 5th frame (`samples/vtest`)",
    }
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
    return f"""# The demo model

A small SequencePAR with PA-100K's 26 attributes, trained here so that the demo, the checks and the benchmarks have a model that
has learned something. **Not for use on people**: it learned mostly from drawings made by a program, and from 870 pictures of real people.

`demo.safetensors`: {result["bytes"] / 1e6:.1f} MB, weights stored in float16, read as float32. The text tower's rows for words that no phrase
uses are left out, which is nine tenths of what it would weigh. Encoder: a ViT of {layers(result)} layers, {vision(result)["width"]} wide, at {vision(result)["image_size"]} px, behind a convolutional
stem; decoder: {result["recipe"]["recipe"]["model"]["architecture"]["layers"]} layers. All of it is in `train/demo.toml`.

## How it was made
From OpenCV's `vtest.avi` (`samples/vtest`) and a table of labelled pictures (`docs/datasets.md`), which is not given out:
```
.venv/bin/python examples/cut_tracks.py vtest.avi runs/vtest
.venv/bin/python benchmarks/demo_model.py --people people/labels.csv --street runs/vtest/people.csv
```
draws 40,000 people (`seqpar synth`, **synthetic**) and trains on them for {result["epochs"][0]} epochs, draws 60,000 others and goes on for {result["epochs"][1]}, stores and
scores: {pictures:,} pictures seen in all. Of these 84 % are rendered, 13 % come from 870 pictures of real people (Penn-Fudan, MIT CBCL; labelled for this project by looking at them, with unknowns), 3 % from the street video's
training tracks, 455 crops of five people. Both real sets are research sets whose pictures are not here. The last weights were taken, not chosen by any test
set; the rendered validation set was looked at, the tests below were not used for anything.

Speed: {result["training"]["images_per_second_median"]:.0f} pictures a second in the median of the epochs, {result["training"]["waiting_median"]:.1%} of the time waiting for pictures (one reading process for each of two
training processes), on {machine["processor"]}, {machine["cores"]} cores, bf16.

## Scores
Published metrics; where a label is unknown, the cell counts neither in the label nor in the prediction.

| test | people | mA | Acc | Prec | Recall | F1 |
|---|---|---|---|---|---|---|
{scores}

On the real people, always answering "age 18 to 60, long sleeve, trousers" scores F1 0.643, HOG and colour with logistic regression 0.75.

After export, on the rendered test set, against the checkpoint in PyTorch:

| bundle | F1 | mA | sequences that differ |
|---|---|---|---|
{exported}

## What each part added
{ablation_section(ablation, pictures)}

## Attribute by attribute
Recall of yes, of no, and how many people have it among those for whom it is known.

| attribute | rendered | real people | street |
|---|---|---|---|
{attributes}

## Limits
- Few real people and few of their rarer attributes: 12 children, 29 over 60, 26 with boots. Where the table counts a handful, the
  score means little. The street test shows five people, however many frames; no attribute of the others is tested there.
- The command gives a like model, not this very one: the linear layer of the first training's second loss was not yet seeded, and the second
  training was made on another machine than the first. Somebody shown twice in an epoch was then varied alike; now each time anew.
- In FP16 a few sequences in 5,000 may differ from FP32's, see the table.
- Perceived gender and age, as labelled by one labeller.
- Drawings are drawings. What the rendered score promises, the real one does not keep.
"""


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
    return f"""Short trainings, each on {ablation["epochs"] * 8000:,} pictures of the model's own {pictures:,}; F1:

| trained on | rendered | real people | street |
|---|---|---|---|
{rows}

So short, they tell what helps early on, not what each part is worth in the end."""


def layers(result: dict[str, Any]) -> int:
    return int(vision(result)["layers"])


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
