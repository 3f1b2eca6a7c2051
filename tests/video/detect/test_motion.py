"""The built-in detector on drawn people, and boxes from outside."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from seqpar_deploy.errors import BackendUnavailableError, DetectorError
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.detect.external import ExternalDetections, FunctionDetector
from seqpar_deploy.video.detect.motion import WORKING_PIXELS, MotionDetector, scaled_down
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box, Frame

HEIGHT, WIDTH = 120, 30  # of a drawn person, before they are scaled
GROUND = np.random.default_rng(0).integers(90, 130, (288, 384, 3)).astype(np.uint8)
BLACK = np.zeros((8, 8, 3), dtype=np.uint8)


def person(image: Crop, centre: float, feet: float) -> Box:
    """Draw a person into an image: a head on shoulders, legs apart."""
    left, top = round(centre - WIDTH / 2), round(feet - HEIGHT)
    colour = np.array([200, 40, 40], dtype=np.uint8)
    for x0, y0, x1, y1 in ((10, 0, 20, 18), (2, 18, 28, 70), (0, 70, 12, 120), (18, 70, 30, 120)):
        rows = slice(max(0, top + y0), max(0, top + y1))
        image[rows, max(0, left + x0) : max(0, left + x1)] = colour
    return Box(left=left, top=top, right=left + WIDTH, bottom=top + HEIGHT)


def overlap(one: Box, other: Box) -> float:
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    inside = max(0.0, width) * max(0.0, height)
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, other))
    return inside / (areas - inside)


def look(detector: MotionDetector, index: int, *where: tuple[float, float], stream: str = "s") -> tuple[int, int, int]:
    """(people drawn, of them found, boxes) in one frame at 10 a second."""
    noise = np.random.default_rng(index).integers(-3, 4, GROUND.shape)
    image = (GROUND + noise).astype(np.uint8)
    drawn = [person(image, *one) for one in where]
    boxes = detector.detect(Frame(stream=stream, index=index, timestamp=index / 10, image=image))
    found = sum(any(overlap(one, box) > 0.5 for box in boxes) for one in drawn)
    return len(drawn), found, len(boxes)


def walk(detector: MotionDetector, frames: range, stream: str = "s") -> list[tuple[int, int, int]]:
    """Somebody walks to and fro along the picture."""
    return [look(detector, index, (40 + abs(index * 6 % 600 - 300), 250), stream=stream) for index in frames]


def test_somebody_who_walks_is_found_with_one_box() -> None:
    detector = MotionDetector()
    look(detector, 0)
    seen = walk(detector, range(1, 60))
    assert sum(found for _, found, _ in seen) >= 57
    assert max(boxes for _, _, boxes in seen) == 1


def test_who_stands_still_stays_for_as_long_as_patience_lasts() -> None:
    detector = MotionDetector()
    walk(detector, range(1, 60))
    seen = [look(detector, index, (200, 250)) for index in range(60, 260)]
    assert sum(found for _, found, _ in seen) >= 195
    later = [look(detector, index, (200, 250)) for index in range(1400, 1420)]
    assert sum(found for _, found, _ in later[1:]) == 0


def test_a_group_is_told_apart_once_people_s_size_is_known() -> None:
    detector = MotionDetector()
    walk(detector, range(1, 100))
    seen = [look(detector, index, (100 + index % 50, 250), (127 + index % 50, 250)) for index in range(100, 140)]
    assert sum(found for _, found, _ in seen) >= 76
    assert max(boxes for _, _, boxes in seen) == 2


def test_who_was_there_from_the_start_leaves_no_ghost() -> None:
    detector = MotionDetector()
    for index in range(20):
        look(detector, index, (300, 250))
    seen = [look(detector, index, (max(40, 300 - 5 * (index - 20)), 250)) for index in range(20, 70)]
    assert sum(boxes for _, _, boxes in seen[30:]) == 20  # the person, and nothing where they stood
    assert sum(found for _, found, _ in seen[30:]) == 20


def test_a_change_of_light_is_no_crowd() -> None:
    detector = MotionDetector()
    assert not detector.ready("s")
    walk(detector, range(1, 40))
    assert detector.ready("s")
    image = np.clip(GROUND.astype(np.int16) + 90, 0, 255).astype(np.uint8)
    for index in range(40, 60):
        assert detector.detect(Frame(stream="s", index=index, timestamp=index / 10, image=image)) == []
        assert not detector.ready("s")  # it learns the background anew


def test_each_stream_has_its_own_background_and_a_new_size_starts_anew() -> None:
    detector = MotionDetector()
    walk(detector, range(1, 30))
    assert look(detector, 30, stream="other") == (0, 0, 0)
    small = np.ascontiguousarray(GROUND[:200, :300])
    assert detector.detect(Frame(stream="s", index=31, timestamp=3.1, image=small)) == []
    detector.close()
    detector.close()


def frame(index: int, timestamp: float | None = None, stream: str = "gate") -> Frame:
    return Frame(stream=stream, index=index, timestamp=index / 10 if timestamp is None else timestamp, image=BLACK)


@pytest.mark.parametrize("times", [3, 5])
def test_people_are_found_in_large_frames(times: int) -> None:
    """Such frames are halved first, once for 3 and twice for 5."""
    detector, found = MotionDetector(), []
    for index in range(30):
        noise = np.random.default_rng(index).integers(-3, 4, GROUND.shape)
        image = (GROUND + noise).astype(np.uint8)
        where = person(image, 40 + 6 * index, 250) if index else Box(left=0, top=0, right=1, bottom=1)
        large = image.repeat(times, axis=0).repeat(times, axis=1)
        boxes = detector.detect(Frame(stream="s", index=index, timestamp=index / 10, image=large))
        wanted = Box(**{edge: times * getattr(where, edge) for edge in ("left", "top", "right", "bottom")})
        found.append(any(overlap(wanted, box) > 0.7 for box in boxes))
    assert sum(found[10:]) >= 19


@pytest.mark.parametrize(
    ("size", "exact"), [((288, 384), True), ((576, 768), True), ((1080, 1920), False), ((1083, 1441), False)]
)
def test_large_frames_are_halved_and_stay_alike(size: tuple[int, int], exact: bool) -> None:
    image = cv2.resize(GROUND, size[::-1], interpolation=cv2.INTER_CUBIC)
    scale = min(1.0, (WORKING_PIXELS / (size[0] * size[1])) ** 0.5)
    in_one_step = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    picture = scaled_down(cv2, image, scale)
    assert np.abs(np.subtract(picture.shape, in_one_step.shape)).max() <= (0 if exact else 1)
    rows, columns, _ = np.minimum(picture.shape, in_one_step.shape)
    away = np.abs(picture[:rows, :columns].astype(int) - in_one_step[:rows, :columns])
    assert away.max() == 0 if exact else away.mean() < 2


def test_boxes_by_frame_are_given_to_their_frames(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_text(
        '{"frame": 1, "boxes": [[1, 2, 3, 4, 0.5], [5, 6, 7, 8]]}\n\n{"frame": 3, "boxes": [[1, 1, 2, 2]]}\n'
    )
    detector = open_detector(str(path))
    found = [detector.detect(frame(index)) for index in (0, 1, 2, 4)]
    two = [Box(left=1, top=2, right=3, bottom=4, score=0.5), Box(left=5, top=6, right=7, bottom=8)]
    assert found == [[], two, [], []]
    detector.close()
    detector.close()


def test_boxes_by_time_and_of_several_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        '{"stream": "yard", "timestamp": 0.1, "boxes": [[9, 9, 10, 10]]}\n'
        '{"stream": "gate", "timestamp": 0.11, "boxes": [[1, 1, 2, 2]]}\n'
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    detector = open_detector("-")
    assert detector.detect(frame(1, 0.1)) == [Box(left=1, top=1, right=2, bottom=2)]
    assert detector.detect(frame(1, 0.1, "yard")) == [Box(left=9, top=9, right=10, bottom=10)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 must be like .*column 2"),
        ('{"boxes": []}', 'line 2: .*"frame" or "timestamp", got none'),
        ('{"seconds": 0.1, "boxes": []}', 'line 2.*"timestamp"'),
        ('{"frame": 1}', "line 2 .* no key .boxes"),
        ('{"frame": 1, "boxes": [[1, 2, 3]]}', "line 2: .*score, got 3 numbers"),
        ('{"frame": 1, "boxes": [[5, 2, 3, 4]]}', "line 2.*left < right"),
        ("[]", "line 2 must be like"),
        ("[" * 100_000, "line 2 must be like .*nested"),
        ('{"frame": 1e999, "boxes": []}', "line 2 must be like"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_text(f'{{"frame": 0, "boxes": []}}\n{line}\n')
    detector = ExternalDetections(path)
    with pytest.raises(DetectorError, match=message) as caught:
        detector.detect(frame(1))
    assert "\n" not in str(caught.value)
    detector.close()


def test_boxes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "boxes.jsonl").write_bytes(b'{"stream": "\xff"}\n')
    detector = ExternalDetections(tmp_path / "boxes.jsonl")
    with pytest.raises(DetectorError, match=r"line 1 must be like .*UTF-8"):
        detector.detect(frame(1))
    detector.close()


def test_lines_without_a_stream_are_refused_when_there_are_two(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"frame": 0, "boxes": []}\n{"frame": 1, "boxes": []}\n')
    detector = ExternalDetections(path)
    detector.detect(frame(0))
    with pytest.raises(DetectorError, match=r'"stream".* several streams, gate, yard'):
        detector.detect(frame(1, stream="yard"))
    detector.close()


def test_a_function_is_a_detector() -> None:
    detector = FunctionDetector(lambda image: [(0, 0, image.shape[1], 5, 0.7)])
    assert detector.detect(frame(0)) == [Box(left=0, top=0, right=8, bottom=5, score=0.7)]
    with pytest.raises(DetectorError, match="detector function failed"):
        FunctionDetector(lambda image: [(1, 2)]).detect(frame(0))


def test_an_unknown_detector_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"motion, an \.onnx file, .* got 'yolo'"):
        open_detector("yolo")
    with pytest.raises(DetectorError, match="cannot be read: No such file"):
        open_detector(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(("module", "part"), [("cv2", MotionDetector), ("trackers", ByteTracker)])
def test_what_is_not_installed_is_told_with_the_extra(module: str, part: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'seqpar-deploy\[video\]'"):
        part()
