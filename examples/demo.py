"""`make demo`: checkpoint -> bundle -> attributes of real pedestrians, with the commands a user would type.

No trained checkpoint ships yet, so the weights are random and THE LABELS MEAN NOTHING: this shows that the road is
whole, not that anybody is recognised.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from seqpar_deploy.modeling.architecture import Architecture
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.resources import data_dir, load_label_set

OUT = Path("runs/demo")
WARNING = "NOTE: random weights, so the labels below mean nothing. A trained demo model is still to come."


def main() -> None:
    label_set = load_label_set("pa100k")
    checkpoint = OUT / "random.safetensors"
    save_checkpoint(checkpoint, random_model(small_architecture(len(label_set))), label_set, dtype=torch.float32)

    run("seqpar-export", "checkpoint", checkpoint, "--label-set", "pa100k", "--out", OUT / "bundle", "--overwrite")
    print(f"\n{WARNING}\n")
    crops = data_dir("samples") / "crops"
    run("seqpar", "predict", crops, "--bundle", OUT / "bundle", "--annotate", OUT / "annotated")
    sheet = contact_sheet(sorted((OUT / "annotated").glob("*.png"))[:6], OUT / "people.png")
    print(f"\n{WARNING}\nPictures with their attributes: {OUT}/annotated, six of them together: {sheet}")


def small_architecture(attributes: int) -> Architecture:
    """A few million weights, for a demonstration of seconds."""
    return Architecture(
        attributes=attributes,
        embed_dim=128,
        vision={"image_size": 112, "layers": 4, "width": 192, "head_width": 64, "patch_size": 14},
        text={"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
        layers=3,
        heads=4,
        head_size=32,
        ffn=256,
    )


def run(command: str, *arguments: object) -> None:
    """Run one of the package's commands, showing it as a user would type it."""
    print("$", command, *arguments, flush=True)
    subprocess.run([Path(sys.executable).parent / command, *map(str, arguments)], check=True)


def contact_sheet(pictures: list[Path], out: Path) -> Path:
    """Pictures side by side, three a row."""
    images = [Image.open(path) for path in pictures]
    width, height = max(image.width for image in images), max(image.height for image in images)
    sheet = Image.new("RGB", (3 * width, (len(images) + 2) // 3 * height), (250, 250, 248))
    for place, image in enumerate(images):
        sheet.paste(image, (place % 3 * width, place // 3 * height))
    sheet.save(out)
    return out


if __name__ == "__main__":
    main()
