"""A run of `seqpar video` with zones, on recordings one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from cli.run import run
from video.clips import make_clip

pytest.importorskip("cv2")
pytestmark = pytest.mark.slow

LINE = "points = [[80, 0], [80, 120]]"  # from above, so that "in" is to the left


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person walks from left to right within 3 s, another one stands in the upper left corner."""
    folder = tmp_path_factory.mktemp("clip")
    boxes = ([[4 * at, 40, 4 * at + 30, 110], [2, 2, 22, 42]] for at in range(30))
    lines = (
        {"stream": stream, "frame": at, "boxes": some} for at, some in enumerate(boxes) for stream in ("gate", "yard")
    )
    (folder / "walk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_clip(folder / "walk.mp4", frames=30)


def config(folder: Path, bundle: Path, clip: Path, cameras: str) -> Path:
    file = folder / "cameras.toml"
    file.write_text(
        f'bundle = "{bundle}"\nevents = "events.jsonl"\ndetector = "{clip.with_suffix(".jsonl")}"\n'
        f"{cameras.replace('CLIP', str(clip))}"
    )
    return file


def events(folder: Path, stream: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["stream"] == stream]


def test_a_run_counts_by_attribute(tmp_path: Path, bundle_dir: Path, clip: Path) -> None:
    report, drawn = tmp_path / "people.html", tmp_path / "out.mp4"
    file = config(
        tmp_path,
        bundle_dir,
        clip,
        f"""
report = "people.html"
annotate = "out.mp4"
[cameras.gate]
address = "CLIP"
[cameras.gate.lines.door]
{LINE}
[cameras.gate.masks.poster]
points = [[0, 0], [0.2, 0], [0.2, 0.5], [0, 0.5]]
[cameras.gate.zones.hall]
points = [[0.5, 0.5], [1, 0.5], [1, 1], [0.5, 1]]
[cameras.yard]
address = "CLIP"
""",
    )
    run("seqpar", "video", "--config", file)
    gate, yard = events(tmp_path, "gate"), events(tmp_path, "yard")
    told = [(one["event"], one["zone"], one.get("direction")) for one in gate if "zone" in one]
    assert told == [
        ("entered", "hall", None),
        ("crossed", "door", "out"),
        ("left", "hall", None),
        ("counted", "hall", None),
        ("counted", "door", None),
    ]
    assert gate[-1]["event"] == "counted"
    (ended,) = (one for one in gate if one["event"] == "ended")  # the mask hides the other person
    assert len([one for one in yard if one["event"] == "ended"]) == 2
    assert not [one for one in yard if "zone" in one]
    (count,) = (one for one in gate if one["event"] == "counted" and one["zone"] == "door")
    assert count["people"] == {"in": 0, "out": 1}
    yes = {name: 1 for name, one in ended["attributes"].items() if one["state"] == "yes"}
    assert count["people_with"] == ({"out": yes} if yes else {})
    assert 'id="zones"' in report.read_text()
    with av.open(str(tmp_path / "out-gate.mp4")) as video:
        image = next(video.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert not drawn.exists()
    assert np.abs(np.diff(image[5:20, 74:88].sum(axis=2), axis=1)).max() > 100  # the line, on the edge of the halves
