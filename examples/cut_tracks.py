"""Cut the labelled people of samples/vtest out of OpenCV's sample video, as a CSV for training and evaluation.

    python examples/cut_tracks.py vtest.avi runs/vtest
    seqpar eval CHECKPOINT --data runs/vtest/people.csv --split held_out

Boxes that are mostly hidden, and people too small to label, are left out. The view is labelled per frame. Needs
`pip install 'seqpar-deploy[video]'`. The video is part of Debian's opencv-doc and of OpenCV's samples.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import av
from PIL import Image

from seqpar_deploy.resources import data_dir

MOSTLY_HIDDEN = "2"
VIEWS = ("front", "side", "back")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument("out", type=Path, help="folder for the pictures and people.csv")
    options = parser.parse_args()
    cut_tracks(options.video, options.out)


def cut_tracks(video: Path, out: Path) -> None:
    """Write `people.csv` and one PNG file per crop to the folder `out`."""
    labels, phrases = read_labels()
    boxes = defaultdict(list)
    with (data_dir("samples") / "vtest" / "tracks.csv").open() as file:
        for row in csv.DictReader(file):
            if row["track"] in labels and row["occlusion"] != MOSTLY_HIDDEN:
                boxes[int(row["frame"])].append(row)
    out.mkdir(parents=True, exist_ok=True)
    people = 0
    with (out / "people.csv").open("w", newline="") as file, av.open(str(video)) as container:
        writer = csv.writer(file)
        writer.writerow(["image", "group", "split", *phrases])
        for number, frame in enumerate(container.decode(video=0)):
            picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
            for row in boxes.get(number, []):
                name = f"track{int(row['track']):02}-frame{number:03}.png"
                picture.crop([int(row[side]) for side in ("left", "top", "right", "bottom")]).save(out / name)
                known = labels[row["track"]]
                view = {v: str(int(v == row["view"])) if row["view"] else "" for v in VIEWS}
                values = [view.get(phrase, known[phrase]) for phrase in phrases]
                writer.writerow([name, known["group"], known["split"], *values])
                people += 1
    print(f"{out / 'people.csv'}: {people} crops of {len(labels)} tracks")


def read_labels() -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the row of each labelled track, and the phrases of the attributes."""
    with (data_dir("samples") / "vtest" / "labels.csv").open() as file:
        reader = csv.DictReader(file)
        phrases = list(reader.fieldnames or [])[5:]
        return {row["track"]: row for row in reader if row["split"] != "ignore"}, phrases


if __name__ == "__main__":
    main()
