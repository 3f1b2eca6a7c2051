"""Boxes from outside that cannot be right are refused with their line, or warned of."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.external import ExternalDetections, FunctionDetector
from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.types import Box, Frame

PICTURE = np.zeros((240, 320, 3), dtype=np.uint8)
GOOD = [10, 20, 60, 180]


def frame(index: int, stream: str = "gate") -> Frame:
    return Frame(stream=stream, index=index, timestamp=index / 10, image=PICTURE)


def opened(tmp_path: Path, *lines: dict[str, Any]) -> ExternalDetections:
    path = tmp_path / "boxes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ExternalDetections(path)


def run(detector: ExternalDetections, count: int, stream: str = "gate") -> int:
    """Return the number of boxes in the first frames."""
    with contextlib.closing(detector):
        return sum(len(detector.detect(frame(index, stream))) for index in range(count))


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ([0.1, 0.2, 0.3, 0.9], "relative"),
        ([0, 0, 1, 1], "relative"),
        ([120, 60, 50, 120], "width, height"),
        ([float("nan"), 2, 30, 40], "numbers"),
        ([1, 2, float("inf"), 40], "numbers"),
        ([1, 2, 30, 40, float("nan")], "numbers"),
        ([1, 2, 30, 40, 91], "per cent"),
        ([1, 2, 30, 40, -0.5], "scores"),
    ],
)
def test_boxes_that_are_no_pixels_are_refused(box: list[float], part: str, tmp_path: Path) -> None:
    detector = opened(tmp_path, {"frame": 0, "boxes": [GOOD]}, {"frame": 1, "boxes": [GOOD, box]})
    with pytest.raises(DetectorError, match=rf"boxes\.jsonl line 2: .*{part}") as caught:
        run(detector, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(DetectorError, match=part):
        FunctionDetector(lambda _image: [box]).detect(frame(0))


@pytest.mark.parametrize(
    ("one", "other", "part"),
    [
        ({"frame": 5}, {"frame": 4}, "order.* frame 4 after frame 5"),
        ({"timestamp": 0.5}, {"timestamp": 0.4}, "order.* 0.4 after .*0.5"),
        ({"frame": 5}, {"frame": 5}, "one line.* again after line 1"),
        ({"timestamp": 0.5}, {"timestamp": 0.5}, "one line.*decimals"),
        ({"frame": 5}, {"timestamp": 0.6}, '"frame" or all "timestamp"'),
        ({"frame": 5}, {"frame": 5.5}, "whole number"),
        ({"frame": 5}, {"frame": -1}, "whole number"),
        ({"timestamp": 0.5}, {"timestamp": float("nan")}, "seconds"),
    ],
)
def test_lines_out_of_order_are_refused(one: dict[str, Any], other: dict[str, Any], part: str, tmp_path: Path) -> None:
    detector = opened(tmp_path, {**one, "boxes": [GOOD]}, {**other, "boxes": [GOOD]})
    with pytest.raises(DetectorError, match=f"line 2: .*{part}"):
        run(detector, 9)


def test_lines_of_different_streams_have_orders_of_their_own(tmp_path: Path) -> None:
    lines = [{"stream": name, "frame": 3, "boxes": [GOOD]} for name in ("gate", "yard")]
    detector = opened(tmp_path, *lines)
    assert (
        detector.detect(frame(3)) == detector.detect(frame(3, "yard")) == [Box(left=10, top=20, right=60, bottom=180)]
    )
    detector.close()


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ([{"timestamp": 40.0 * i + 500, "boxes": [GOOD]} for i in range(9)], ("line 1", "timestamp 500", "seconds")),
        ([{"timestamp": 0.05 + i / 10, "boxes": [GOOD]} for i in range(9)], ("line 1", "timestamp 0.05")),
        ([{"frame": 1000 + i, "boxes": [GOOD]} for i in range(9)], ("line 1", "frame 1000")),
        ([{"frame": 1 + i, "boxes": [GOOD]} for i in range(9)], ("line 9", "frame 9", "counted from 1")),
        ([{"stream": "cam7", "frame": i, "boxes": [GOOD]} for i in range(9)], ("cam7", "gate")),
        ([], ("no lines",)),
    ],
)
def test_lines_that_match_no_frame_are_warned_of(
    lines: list[dict[str, Any]], parts: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(opened(tmp_path, *lines), 9)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "boxes.jsonl" in record.getMessage()
    for part in parts:
        assert part in record.getMessage()


@pytest.mark.parametrize("count", [3, 9])
def test_right_lines_are_no_alarm_even_if_the_run_ends_early(
    count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [{"frame": index, "boxes": [GOOD]} for index in range(9)]
    assert run(opened(tmp_path, *lines), count) == count
    assert caplog.records == []


@pytest.mark.parametrize("box", [[400, 20, 460, 180], [20, 10, 180, 60], [0, 0, 320, 240]])
def test_boxes_of_another_size_or_with_swapped_axes_are_warned_of(
    box: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rest = {"frame": 0, "boxes": [box] * 25}
    run(opened(tmp_path, rest), 2)
    (record,) = caplog.records
    assert "25 of 25" in record.getMessage() or "pixels" in record.getMessage()


def test_a_byte_order_mark_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_text(json.dumps({"frame": 0, "boxes": [GOOD]}) + "\n", encoding="utf-8-sig")
    assert run(ExternalDetections(path), 1) == 1


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (OnnxOptions(person_class="person"), "--person-class person"),
        (OnnxOptions(layout="yolov8"), "--detector-layout yolov8"),
        (OnnxOptions(score=0.5), "--detector-threshold 0.5"),
        (OnnxOptions(scaling="0-255"), "--detector-scaling 0-255"),
    ],
)
@pytest.mark.parametrize("detector", ["motion", "boxes.jsonl", "-"])
def test_options_of_onnx_detectors_are_refused_for_others(detector: str, options: OnnxOptions, part: str) -> None:
    with pytest.raises(DetectorError, match=rf"\.onnx file for {part}, got {detector}"):
        open_detector(detector, options=options)


@pytest.mark.parametrize("rate", [10, 25, 30, 50, 60, 120])
@pytest.mark.parametrize("missing", [frozenset(), frozenset({2, 7, 8})])
def test_each_line_goes_to_the_frame_of_its_timestamp(rate: int, missing: frozenset[int], tmp_path: Path) -> None:
    boxes = [[index, 20, index + 50, 180] for index in range(20)]
    lines = ({"timestamp": round(at / rate, 3), "boxes": [boxes[at]]} for at in range(20) if at not in missing)
    with contextlib.closing(opened(tmp_path, *lines)) as detector:
        found = [
            [box.left for box in detector.detect(Frame(stream="s", index=at, timestamp=at / rate, image=PICTURE))]
            for at in range(20)
        ]
    assert found == [[] if at in missing else [at] for at in range(20)]


def test_of_more_lines_than_frames_the_nearest_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ({"timestamp": at / 50, "boxes": [[at, 20, at + 50, 180]]} for at in range(40))
    with contextlib.closing(opened(tmp_path, *lines)) as detector:
        found = [
            detector.detect(Frame(stream="s", index=at, timestamp=at / 25, image=PICTURE))[0].left for at in range(20)
        ]
    assert found == list(range(0, 40, 2))
    assert "matches no frame" not in caplog.text
