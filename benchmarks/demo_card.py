"""Write models/demo/README.md, the demo model's card, from the results of the other demo_*.py scripts.

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
- The command trains a similar model, not this exact one. In the first training one layer was not seeded, and each of
  the three ran on another machine. Pictures drawn twice in an epoch then had the same augmentation, which has changed.
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
    others = {name: read(f"demo-{name}.json") for name in ("trimming", "baselines", "encoder")}
    options.out.write_text(card(result, ablation, **others), encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return values


def card(
    result: dict[str, Any],
    ablation: dict[str, Any] | None,
    *,
    trimming: dict[str, Any],
    baselines: dict[str, Any],
    encoder: dict[str, Any],
) -> str:
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
    architecture = result["architecture"]
    model = architecture["vision"]
    text = f"""# The demo model

A small SequencePAR with PA-100K's 26 attributes. The demo, the checks and the benchmarks use it as a trained model.
**It is not for use on people.** It learned mostly from rendered pictures, and from 870 pictures of real people.

`demo.safetensors` has {result["bytes"] / 1e6:.1f} MB. Weights are stored in float16 and read as float32. Rows of the
text tower for words that no phrase uses are left out, which saves nine tenths of the size. The encoder is a ViT of
{model["layers"]} layers, {model["width"]} wide, for pictures of {model["image_size"]} px, behind a convolutional stem.
The decoder has {architecture["layers"]} layers. `train/demo.toml` and `train/demo-trim.toml` are the recipes.

{trimming_section(architecture, encoder)}

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

### On the same real people
{baselines_section(tests["people"]["metrics"], baselines)}

### Before and after trimming
{comparison_section(trimming)}

### After export
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
    second_run, last_run = result["training"]["demo"], result["training"]["demo-trimmed"]
    machine = result["rendered"]["machine"]
    first, second, third = result["epochs"]
    return f"""\
The training uses OpenCV's `vtest.avi` (`samples/vtest`) and a table of labelled pictures (`docs/datasets.md`). The
table is not published.

```bash
.venv/bin/python examples/cut_tracks.py vtest.avi runs/vtest
.venv/bin/python benchmarks/demo_model.py --people people/labels.csv --street runs/vtest/people.csv
```

The second command trains three times, each time on other rendered people (`seqpar synth`, **synthetic**):

1. {first} epochs on 40,000 people, from random weights, on whole crops.
2. {second} more epochs on 60,000 people, on whole crops.
3. {third} more epochs on 30,000 people, on trimmed crops, at lower rates.

`demo.safetensors` was made in this way. The third training started from the weights that this folder had before, the
result of the second one, and changed all but the text tower. An epoch has
{result["recipe"]["recipe"]["pictures_per_epoch"]:,} pictures, so the model saw {pictures:,}:

| share | source |
|---|---|
| 84 % | rendered people |
| 13 % | 870 pictures of real people from Penn-Fudan and MIT CBCL |
| 3 % | 455 crops of five people from the training tracks of the street video |

The real pictures were labelled for this project by eye, with unknowns. Both sources are research datasets, and their
pictures are not here. The weights are those of the last step, not chosen by any test set. During development only the
rendered validation set was used, never the tests below.

Speed of the second training: {second_run["images_per_second_median"]:.0f} pictures per second (median of the epochs),
with {second_run["waiting_median"]:.1%} of the time spent waiting for pictures, on {machine["processor"]},
{machine["cores"]} cores, in bf16. Two training processes ran, with one reading process each. The third training ran
beside other programs, at {last_run["images_per_second_median"]:.0f} pictures per second."""


def trimming_section(architecture: dict[str, Any], encoder: dict[str, Any]) -> str:
    grid, widths = architecture["columns"][-1], ", ".join(map(str, architecture["columns"][:-1]))
    one, eight = (
        " and ".join(
            f"{each['ratio']:.2f}" for name, each in encoder["batches"].items() if name.endswith(f"batch {size}")
        )
        for size in (1, 8)
    )
    return f"""The model reads trimmed crops: of the {grid} columns of patches, it reads {widths} or {grid}, and
leaves away most of the black padding. A crop of 1:2.5 has {encoder["columns"]} columns. Its encoder time on ONNX
Runtime and OpenVINO is {eight} of that of a whole crop in batches of 8, and {one} in batches of 1, where a call
takes only milliseconds (`benchmarks/demo_encoder.py`: medians of interleaved runs on one thread)."""


def baselines_section(model: dict[str, Any], baselines: dict[str, Any]) -> str:
    """Compare with simple answers that learned from the same people as the model."""
    names = {"majority": "majority answer", "hog_and_colour": "HOG and colours"}
    found = {text: baselines[name] for name, text in names.items()}
    rows = "\n".join(
        f"| {text} | {one['test']['f1']:.4f} | {one['test']['ma']:.4f} | {one['splits']['mean']['f1']:.4f} "
        f"± {one['splits']['deviation']['f1']:.4f} |"
        for text, one in found.items()
    )
    splits = baselines["majority"]["splits"]
    return f"""All learned from the same 870 people and are scored on the same 166. The majority answer is the same for
everyone. HOG and colour features go into a logistic regression (`benchmarks/demo_baselines.py`). The model saw rendered
and street people too, which the others did not.

| answer | F1 | mA | F1, mean of five splits |
|---|---|---|---|
| this model | {model["f1"]:.4f} | {model["ma"]:.4f} | not measured |
{rows}

The five splits are by group, over all {splits["people"]:,} people, with the deviation between splits. They show how
much a score depends on the split. The model has no fair score on them: it was trained on the 870 people, who are the
test people of the other splits."""


def comparison_section(trimming: dict[str, Any]) -> str:
    """Compare with the model before the third training, on the same people."""
    rows = "\n".join(
        f"| {text} | {trimming[name]['full']['f1']:.4f} | {trimming[name]['trimmed_untrained']['f1']:.4f} | "
        f"{trimming[name]['trimmed']['f1']:.4f} | {difference(trimming[name]['trimmed']['f1_difference'])} | "
        f"{difference(trimming[name]['trimmed']['ma_difference'])} |"
        for name, text in (("rendered", "rendered"), ("people", "real"), ("street", "street"))
    )
    return f"""F1 before the third training on whole crops, the same weights on trimmed crops, and this model.
Differences are this model minus the one before on whole crops, with 95 % bootstrap intervals over people (rendered),
over {trimming["people"]["groups"]} groups (real), and over {trimming["street"]["groups"]} people (street, too few
for a good interval).

| test | whole | trimmed, not trained | this model | F1 difference | mA difference |
|---|---|---|---|---|---|
{rows}"""


def difference(values: list[float]) -> str:
    value, low, high = values
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"


def rewrapped(text: str) -> str:
    """Fill paragraphs, whose lines differ in length by the values in them."""
    return "\n\n".join(map(_filled, text.split("\n\n")))


def _filled(block: str) -> str:
    heading, line, rest = block.partition("\n")
    if heading.startswith("#"):
        return heading + line + (_filled(rest) if rest else "")
    if not re.match(r"[A-Za-z]|`\w", block):  # a table, a list or code
        return block
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
    return f"""Short trainings from random weights on {ablation["epochs"] * 8000:,} whole crops, where the model saw
{pictures:,} pictures. F1:

| trained on | rendered | real | street |
|---|---|---|---|
{rows}

They are short, so they show the effect early in training, not at its end."""


def attribute_cells(values: dict[str, Any]) -> str:
    if not values["known"]:
        return "unknown"
    yes = f"{values['recall_yes']:.2f}" if values["positives"] else "-"
    no = f"{values['recall_no']:.2f}" if values["positives"] < values["known"] else "-"
    return f"{yes} / {no}, {values['positives']:,} of {values['known']:,}"


if __name__ == "__main__":
    main()
