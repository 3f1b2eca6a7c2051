"""Export the demo model and classify real pedestrians in pictures and in a video: `make demo`.

The script runs the commands that a user would type, and prints them. models/demo/README.md describes the demo model and
its limits.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image

from seqpar_deploy.resources import data_dir

OUT = Path("runs/make-demo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help=f"output folder; default: {OUT}")
    demo(parser.parse_args().out)


def demo(out: Path) -> None:
    checkpoint = data_dir("models") / "demo" / "demo.safetensors"
    run("seqpar-export", "checkpoint", checkpoint, "--out", out / "bundle", "--overwrite")
    crops = data_dir("samples") / "crops"
    run("seqpar", "predict", crops, "--bundle", out / "bundle", "--annotate", out / "annotated")
    sheet = contact_sheet(sorted((out / "annotated").glob("*.png"))[:6], out / "people.png")
    street, video = data_dir("samples") / "vtest" / "street.mp4", out / "street.mp4"
    page, events = out / "people.html", out / "people.jsonl"
    events.unlink(missing_ok=True)  # seqpar video appends
    outputs = ["--annotate", video, "--report", page, "--events", events]
    run("seqpar", "video", street, "--bundle", out / "bundle", *outputs)
    print(f"\nVideo with attributes: {video}\nPage of all people in it: {page}\nEvents: {events}")
    print(f"Pictures with attributes: {out / 'annotated'}\nSix of them: {sheet}")
    print("The demo model is small: it was trained on rendered people and few real ones, five of these among them.")
    print("Its limits: models/demo/README.md")


def run(command: str, *arguments: object) -> None:
    """Print a command of the package, then run it."""
    print("$", command, *arguments, flush=True)
    subprocess.run([Path(sys.executable).parent / command, *map(str, arguments)], check=True)


def contact_sheet(pictures: list[Path], out: Path) -> Path:
    """Combine pictures, three per row."""
    images = [Image.open(path) for path in pictures]
    width, height = max(image.width for image in images), max(image.height for image in images)
    sheet = Image.new("RGB", (3 * width, (len(images) + 2) // 3 * height), (250, 250, 248))
    for place, image in enumerate(images):
        sheet.paste(image, (place % 3 * width, place // 3 * height))
    sheet.save(out)
    return out


if __name__ == "__main__":
    main()
