"""Privacy of a whole run: every output is decoded and searched for people and for an attribute that was kept out.

Each person of the clip is a pattern of black and white squares. Normalised correlation finds it in any picture that
shows it, scaled and compressed. The boxes come from a file, so that the detector misses nobody but whom it has to.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from seqpar_deploy import Recognizer
from seqpar_deploy.cli.video import command, outputs
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.external import ExternalDetections
from seqpar_deploy.video.sinks.metrics import Metrics
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.types import Event, Frame

pytestmark = pytest.mark.slow

WIDTH, HEIGHT, FRAMES = 480, 360, 40
SQUARE = 8  # pixels
PERSON = (7 * SQUARE, 18 * SQUARE)  # width and height
HEAD = 4  # rows of squares
CROPPED = 1.16  # a crop has a margin of 8 % on each side
MISSED = range(12, 15)  # frames in which the detector does not find the second person
SEEN, NOT_SEEN = 0.8, 0.6  # correlation with the pattern: 0.96 to 1.00 without blur, 0.36 to 0.46 with it


CAMERAS = """
[cameras.gate]
address = {address}
[cameras.gate.zones.yard]
points = [[0, 0], [1, 0], [1, 1], [0, 1]]
"""


def pattern(number: int, part: str) -> RgbImage:
    """The squares of a person, or of the head only, above a grey body.

    Each two by two of them are half black, so that nothing is left at half the size.
    """
    random = np.random.default_rng(number)
    squares = np.array([random.permutation([0, 0, 255, 255]) for _ in range(4 * 9)], dtype=np.uint8)
    grid = squares.reshape(9, 4, 2, 2).swapaxes(1, 2).reshape(18, 8)[:, :7]
    if part == "heads":
        grid[HEAD:] = 128
    return np.repeat(grid.repeat(SQUARE, axis=0).repeat(SQUARE, axis=1)[:, :, None], 3, axis=2)


def place(number: int, index: int) -> tuple[int, int, int, int]:
    left, top = (30 + 6 * index, 60) if number == 0 else (380 - 6 * index, 130)
    return left, top, left + PERSON[0], top + PERSON[1]


def make_clip(path: Path, part: str) -> Path:
    """Two people who walk past each other, and their boxes beside it."""
    ground = np.random.default_rng(9).integers(90, 130, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    lines = []
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(FRAMES):
            image = ground.copy()
            for number in range(2):
                left, top, right, bottom = place(number, index)
                image[top:bottom, left:right] = pattern(number, part)
            boxes = [place(number, index) for number in range(2) if not (number == 1 and index in MISSED)]
            lines.append(json.dumps({"frame": index, "boxes": boxes}) + "\n")
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode())
    path.with_suffix(".jsonl").write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clip for each part of people that is blurred."""
    folder = tmp_path_factory.mktemp("privacy")
    return {part: make_clip(folder / f"{part}.mp4", part) for part in ("heads", "people")}


def similarity(picture: RgbImage, part: str) -> float:
    """How well the picture shows the heads or the whole of one of the people, -1 to 1."""
    crop = picture.shape[0] > 1.3 * picture.shape[1]
    scale = picture.shape[0] / (CROPPED * PERSON[1]) if crop else picture.shape[1] / WIDTH
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    best = -1.0
    for number in range(2):
        whole = pattern(number, part)[:, :, 0]
        wanted = whole[: HEAD * SQUARE] if part == "heads" else whole
        for size in (0.97 * scale, scale, 1.03 * scale):
            template = cv2.resize(wanted, None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
            if template.shape[0] <= grey.shape[0] and template.shape[1] <= grey.shape[1]:
                best = max(best, float(cv2.matchTemplate(grey, template, cv2.TM_CCOEFF_NORMED).max()))
    return best


def decoded(content: bytes) -> RgbImage:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@dataclasses.dataclass
class Outputs:
    """Everything that left a run, by its name."""

    pictures: dict[str, list[RgbImage]]
    texts: dict[str, bytes]


def run(clip: Path, bundle: Path, folder: Path, patch: pytest.MonkeyPatch, log: Any, **options: Any) -> Outputs:
    """Run the command with every output that has pictures or text."""
    pictures: dict[str, list[RgbImage]] = {"preview": [], "preview stream": [], "latest people": [], "events": []}
    texts: dict[str, bytes] = {}
    metrics = Metrics()

    class Previewed(PreviewSink):
        def frame(self, frame: Frame, boxes: Any, people: Any) -> None:
            super().frame(frame, boxes, people)
            routes = self.routes()
            if frame.index % 3 == 0:
                pictures["preview"].append(decoded(self._body(routes["/streams/"]("0.jpg"))))
                part = next(iter(self._body(routes["/streams/"]("0.mjpg"))))
                pictures["preview stream"].append(decoded(part[part.index(b"\xff\xd8") :]))
                texts[f"people {frame.index}"] = self._body(routes["/people.json"](""))
                texts[f"live {frame.index}"] = self._body(routes["/live.json"](""))
                for number in range(2):
                    if (answer := routes["/crops/"](f"{number}.jpg")) is not None:
                        pictures["latest people"].append(decoded(answer.body))
            texts["preview page"] = self._body(routes["/"](""))

        def event(self, event: Event) -> None:
            super().event(event)
            pictures["events"].append(event.person.best_crop)  # as a sink of the user's own would see it

        def _body(self, answer: Any) -> Any:
            return answer.body

    patch.setattr(outputs, "PreviewSink", Previewed)
    patch.setattr(command, "Metrics", lambda: metrics)
    folder.mkdir()
    log.set_level(logging.DEBUG, logger="seqpar_deploy")
    log.clear()
    cameras = folder.with_suffix(".toml")
    cameras.write_text(CAMERAS.format(address=json.dumps(str(clip))))
    command.video(
        config=cameras,
        bundle=bundle,
        detector=str(clip.with_suffix(".jsonl")),
        events=str(folder / "events.jsonl"),
        annotate=folder / "annotated.mp4",
        report=folder / "people.html",
        keep_uncertain=4,
        uncertain_crops=folder / "uncertain",
        save_crops=folder / "crops",
        keep_people=folder / "people",
        serve=0,
        max_latency=0.1,
        **options,
    )
    texts["log"] = log.text.encode()
    texts["metrics"] = metrics.text().encode()
    page = (folder / "people.html").read_text()
    images = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page)
    pictures["report"] = [decoded(base64.b64decode(image)) for image in images]
    with av.open(str(folder / "annotated.mp4")) as file:
        pictures["annotated"] = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    for name in ("uncertain", "crops"):
        files = sorted(path for path in (folder / name).rglob("*") if path.suffix in (".png", ".jpg"))
        pictures[name] = [decoded(path.read_bytes()) for path in files]
    texts |= {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return Outputs(pictures=pictures, texts=texts)


@pytest.fixture(scope="module")
def emitted(bundle_dir: Path) -> str:
    """The name of an attribute that the model emits on the people of the clip."""
    with Recognizer.from_bundle(bundle_dir) as recognizer:
        return recognizer.predict([pattern(0, "people")])[0].attributes[0]


def worst(outputs: Outputs, part: str) -> Iterator[tuple[str, float]]:
    for name, some in outputs.pictures.items():
        assert some, name
        yield name, max(similarity(picture, part) for picture in some[:: max(1, len(some) // 14)])


@pytest.mark.parametrize("blur", ["heads", "people"])
def test_no_output_shows_anybody_or_a_removed_attribute(
    clips: dict[str, Path],
    bundle_dir: Path,
    emitted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    blur: str,
) -> None:
    clip = clips[blur]
    shown = run(clip, bundle_dir, tmp_path / "shown", monkeypatch, caplog)
    for name, value in worst(shown, blur):  # the test would find them
        assert value > SEEN, name
    parquet = next(name for name in shown.texts if name.endswith(".parquet"))
    for name in ("events.jsonl", "people.html", "people.csv", "people 30", "live 30", parquet):
        assert emitted.encode() in shown.texts[name], name
    assert b"yard" in shown.texts["events.jsonl"]  # zones have people by attribute

    hidden = run(clip, bundle_dir, tmp_path / "hidden", monkeypatch, caplog, blur=blur, without=emitted.lower())
    for name in ("annotated", "preview", "crops"):
        assert len(hidden.pictures[name]) == len(shown.pictures[name]), name
    for name, value in worst(hidden, blur):
        assert value < NOT_SEEN, name
    for name, text in hidden.texts.items():
        assert emitted.lower().encode() not in text.lower(), name


def test_who_is_missed_for_a_moment_is_blurred_meanwhile(
    clips: dict[str, Path],
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    outputs = run(clips["people"], bundle_dir, tmp_path / "hidden", monkeypatch, caplog, blur="people")
    for index in MISSED:
        assert similarity(outputs.pictures["annotated"][index], "people") < NOT_SEEN


def test_until_the_detector_is_ready_frames_are_wholly_blurred(
    clips: dict[str, Path],
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Late(ExternalDetections):
        """Finds nobody in the first ten frames, and says so."""

        now = 0

        def detect(self, frame: Frame) -> Any:
            self.now = frame.index
            found = super().detect(frame)
            return found if self.now >= 10 else []

        def ready(self, _stream: str) -> bool:
            return self.now >= 10

    monkeypatch.setattr(command, "open_detector", lambda name, **_: Late(Path(name)))
    outputs = run(clips["heads"], bundle_dir, tmp_path / "hidden", monkeypatch, caplog, blur="heads")
    for frame in outputs.pictures["annotated"]:
        assert similarity(frame, "heads") < NOT_SEEN
    ground = [frame[300:340, 100:380].std() for frame in outputs.pictures["annotated"]]
    assert max(ground[:10]) < min(ground[10:]) / 2  # the ground is blurred too, at first
