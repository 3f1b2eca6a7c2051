"""`make demo`: checkpoint -> bundle -> attributes of real pedestrians, with the commands a user would type.

The checkpoint is the small demo model; models/demo/README.md says how it was made and how far to trust it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from seqpar_deploy.resources import data_dir

OUT = Path("runs/make-demo")


def main() -> None:
    checkpoint = data_dir("models") / "demo" / "demo.safetensors"
    run("seqpar-export", "checkpoint", checkpoint, "--out", OUT / "bundle", "--overwrite")
    crops = data_dir("samples") / "crops"
    run("seqpar", "predict", crops, "--bundle", OUT / "bundle", "--annotate", OUT / "annotated")
    sheet = contact_sheet(sorted((OUT / "annotated").glob("*.png"))[:6], OUT / "people.png")
    street, video = data_dir("samples") / "vtest" / "street.mp4", OUT / "street.mp4"
    page, events = OUT / "people.html", OUT / "people.jsonl"
    events.unlink(missing_ok=True)  # a run appends
    outputs = ["--annotate", video, "--report", page, "--events", events]
    run("seqpar", "video", street, "--bundle", OUT / "bundle", *outputs)
    print(
        f"\nThe street video with its people's attributes: {video}; everyone who was seen: {page}; as events: {events}"
    )
    print(f"Pictures with their attributes: {OUT}/annotated, six of them together: {sheet}")
    print("The demo model is small; it learned from drawings and few real people, five of these among them.")
    print("How far to trust it: models/demo/README.md.")


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
