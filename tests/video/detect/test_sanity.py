"""Detectors whose boxes cannot be right are warned of once, and empty scenes are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from video.detect import onnx_detectors
from video.detect.onnx_detectors import Builder, make

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.layout_evidence import PATIENCE
from seqpar_deploy.video.detect.onnx import OnnxDetector
from seqpar_deploy.video.detect.sanity import Sanity
from seqpar_deploy.video.types import Frame

HEIGHT, WIDTH = 216, 384
GROUND = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
NOBODY = np.zeros((0, 4), np.float32)
Pictures = Callable[[int], RgbImage]


def walker(step: int, *, high: int = 60, wide: int = 24) -> RgbImage:
    """A dark upright figure that walks through the picture."""
    picture = GROUND.copy()
    left = 10 + step * 14 % (WIDTH - 40)
    picture[80 : 80 + high, left : left + wide] = 20
    return picture


def car(step: int) -> RgbImage:
    return walker(3 * step, high=30, wide=120)


def noise(step: int) -> RgbImage:
    spread = np.random.default_rng(step).normal(0, 25, GROUND.shape)
    return np.clip(GROUND + spread, 0, 255).astype(np.uint8)


def flicker(step: int) -> RgbImage:
    return np.asarray(GROUND + step % 2 * 40, dtype=np.uint8)


def leaves(step: int) -> RgbImage:
    picture = GROUND.copy()
    picture[20:120, 200:260] = np.random.default_rng(step).integers(60, 120, (100, 60, 1))
    return picture


def still(_step: int) -> RgbImage:
    return GROUND


def frames(pictures: Pictures, count: int, stream: str = "gate", step: float = 0.4) -> Iterator[Frame]:
    for index in range(count):
        yield Frame(stream=stream, index=index, timestamp=index * step, image=pictures(index))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def opened() -> Sanity:
    return Sanity("the detector x.onnx", lambda: "check --person-class")


def test_nobody_despite_motion_is_said_once_per_stream(caplog: pytest.LogCaptureFixture) -> None:
    sanity = opened()
    for stream in ("gate", "yard"):
        for frame in frames(walker, 40, stream):
            sanity.see(frame, NOBODY)
    sanity.close()
    gate, yard = warnings(caplog)
    assert "nobody" in gate
    assert "gate" in gate
    assert "--person-class" in gate
    assert "yard" in yard


def test_a_short_recording_is_judged_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    sanity = opened()
    for frame in frames(walker, 9):
        sanity.see(frame, NOBODY)
    assert warnings(caplog) == []
    sanity.close()
    sanity.close()
    (line,) = warnings(caplog)
    assert "nobody" in line


@pytest.mark.parametrize("pictures", [still, noise, flicker, leaves, car])
def test_scenes_without_people_are_no_alarm(pictures: Pictures, caplog: pytest.LogCaptureFixture) -> None:
    sanity = opened()
    for frame in frames(pictures, 40):
        sanity.see(frame, NOBODY)
    sanity.close()
    assert warnings(caplog) == []


def test_people_who_were_found_are_no_alarm_even_if_they_leave(caplog: pytest.LogCaptureFixture) -> None:
    sanity = opened()
    for frame in frames(walker, 60):
        found = np.array([[10.0 + frame.index, 80, 34 + frame.index, 140]]) if frame.index in (3, 5, 6) else NOBODY
        sanity.see(frame, found)
    sanity.close()
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, WIDTH, HEIGHT),
        (10, 50, 10.2, 50.4),
        (900, 900, 950, 990),
        (20, 50, 200, 70),
        (np.nan, 1, 2, 3),
        (60, 90, 20, 30),
    ],
)
def test_boxes_that_nobody_has_are_said_once(box: tuple[float, ...], caplog: pytest.LogCaptureFixture) -> None:
    sanity = opened()
    for frame in frames(still, 60):
        sanity.see(frame, np.array([box]))
    (line,) = warnings(caplog)
    assert "20 of 20 boxes" in line


def test_boxes_that_never_move_while_the_picture_does_are_said(caplog: pytest.LogCaptureFixture) -> None:
    sanity = opened()
    for frame in frames(walker, 60):
        sanity.see(frame, np.array([[40.0, 50, 60, 100]]))
    (line,) = warnings(caplog)
    assert "same boxes" in line
    for frame in frames(still, 60, "yard"):  # people who sit still in a still picture
        sanity.see(frame, np.array([[40.0, 50, 60, 100]]))
    assert len(warnings(caplog)) == 1


def test_a_detector_of_another_class_names_the_options_and_the_class_that_fires(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = partial(onnx_detectors._detr, boxes="dets", logits="labels", classes=91, person=3)
    detector = OnnxDetector(make(tmp_path / "tuned.onnx", layout, "imagenet"), "onnxruntime")
    for frame in frames(walker, 20):
        assert detector.detect(frame) == []
    detector.close()
    (line,) = warnings(caplog)
    for part in ("tuned.onnx", "--person-class (now 1", "3", "--detector-layout (now rf-detr", "--detector-threshold"):
        assert part in line


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        columns = np.full((onnx_detectors.PLACES, 80), np.nan)
        table = b.planted(columns, onnx_detectors.PLACES, b.centre())
        b.output("output0", b.add("Unsqueeze", b.add("Transpose", table, perm=[1, 0]), np.array([0], np.int64)))

    detector = OnnxDetector(make(tmp_path / "overflow.onnx", layout), "onnxruntime")
    pictures = list(frames(walker, PATIENCE))
    for frame in pictures[:-1]:
        assert detector.detect(frame) == []
    with pytest.raises(DetectorError, match=r"overflow\.onnx .*nan on .*--backend") as caught:
        detector.detect(pictures[-1])
    assert "\n" not in str(caught.value)
