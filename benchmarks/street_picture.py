"""Make docs/images/street.png, the picture in the README: a frame of the street clip as `seqpar video` annotates it.

    .venv/bin/python benchmarks/street_picture.py [--frame 90]

The demo model is exported, unless --bundle names a bundle. The picture has at most 300 kB.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import av
from demo_bundle import export_demo
from PIL import Image

from seqpar_deploy.files import write_whole
from seqpar_deploy.resources import data_dir

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "images" / "street.png"
LIMIT = 300_000  # bytes
COLOURS = (256, 128, 64)  # of the palette: a photograph in full colour takes three times the limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="bundle folder; default: the demo model, exported for this")
    parser.add_argument("--frame", type=int, default=90, help="index of the frame; default: 90")
    parser.add_argument("--out", type=Path, default=OUT, help=f"PNG file; default: {OUT.relative_to(ROOT)}")
    options = parser.parse_args()
    clip = data_dir("samples") / "vtest" / "street.mp4"
    with tempfile.TemporaryDirectory() as made:
        bundle = options.bundle or export_demo(Path(made) / "bundle").path
        video = Path(made) / "street.mp4"
        command = ["video", str(clip), "--bundle", str(bundle), "--annotate", str(video), "--quiet"]
        subprocess.run([sys.executable, "-m", "seqpar_deploy", *command], check=True)
        picture = frame_of(video, options.frame)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    data = compress(picture)
    write_whole(options.out, data)
    print(f"wrote {options.out}: {picture.width} x {picture.height}, {len(data) / 1000:.0f} kB")


def frame_of(video: Path, index: int) -> Image.Image:
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == index:
                return frame.to_image()
    raise SystemExit(f"{video} has no frame {index}")


def compress(picture: Image.Image) -> bytes:
    """Encode as PNG with the largest palette that keeps the file below the limit."""
    for colours in COLOURS:
        data = io.BytesIO()
        few = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(data, "PNG", optimize=True)
        if len(data.getvalue()) <= LIMIT:
            return data.getvalue()
    raise SystemExit(f"the picture must have at most {LIMIT} bytes, got {len(data.getvalue())}; crop it")


if __name__ == "__main__":
    main()
