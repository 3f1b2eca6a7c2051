"""Detectors that several cameras use, and detectors of single streams."""

from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.per_stream import StreamDetectors
from seqpar_deploy.video.detect.shared import SharedDetectors
from seqpar_deploy.video.sinks import Health
from seqpar_deploy.video.types import Box, Frame


class Counted:
    def __init__(self, score: float = 1.0) -> None:
        self.score, self.closed, self.ahead = score, 0, 0

    def detect(self, frame: Frame) -> list[Box]:
        return [Box(left=0, top=0, right=1, bottom=1, score=self.score)]

    def close(self) -> None:
        self.closed += 1


class Learning(Counted):
    def look_ahead(self, frames: object) -> None:
        self.ahead += sum(1 for _ in frames)  # type: ignore[attr-defined]


def frame(stream: str) -> Frame:
    return Frame(stream=stream, index=0, timestamp=0.0, image=np.zeros((4, 4, 3), np.uint8))


def test_equal_settings_share_a_detector_until_the_last_one_is_closed() -> None:
    made: list[Counted] = []

    def make() -> Counted:
        made.append(Counted())
        return made[-1]

    shared = SharedDetectors()
    first, second, other = shared.open("a", make), shared.open("a", make), shared.open("b", make)
    assert len(made) == 2
    assert first.detect(frame("x")) == made[0].detect(frame("x"))
    first.close()
    first.close()
    assert made[0].closed == 0
    second.close()
    assert [one.closed for one in made] == [1, 0]
    other.close()
    assert shared.open("a", make) is not first
    assert len(made) == 3


def test_a_detector_that_does_not_open_can_be_opened_later() -> None:
    shared = SharedDetectors()

    def fail() -> Counted:
        raise RuntimeError("no file")

    with pytest.raises(RuntimeError):
        shared.open("a", fail)
    assert shared.open("a", Counted).detect(frame("x"))


def test_each_stream_has_its_own_detector_or_the_usual_one() -> None:
    usual, own = Counted(0.5), Learning(0.7)
    detectors = StreamDetectors(usual)
    detectors.put("gate", own)
    assert [detectors.detect(frame(name))[0].score for name in ("gate", "yard")] == [0.7, 0.5]
    detectors.look_ahead(iter([frame("gate"), frame("gate")]))
    detectors.look_ahead(iter([frame("yard"), frame("yard")]))
    detectors.look_ahead(iter([]))
    assert own.ahead == 2
    detectors.put("gate", None)
    assert own.closed == 1
    assert detectors.detect(frame("gate"))[0].score == 0.5
    detectors.close()
    assert usual.closed == 0


def test_a_detector_of_two_streams_is_closed_with_the_last_one() -> None:
    detectors, own = StreamDetectors(Counted()), Counted()
    detectors.put("gate", own)
    detectors.put("yard", own)
    detectors.put("gate", None)
    assert own.closed == 0
    detectors.close()
    assert own.closed == 1


class Broken(Counted):
    def detect(self, frame: Frame) -> list[Box]:
        raise RuntimeError("the graph failed")

    def close(self) -> None:
        super().close()
        raise DetectorError("the layout must be known, got two; name it")


def test_a_detector_that_fails_blinds_its_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    detectors = StreamDetectors(Counted(), health=health)
    detectors.put("gate", Broken())
    assert [len(detectors.detect(frame(name))) for name in ("gate", "gate", "yard")] == [0, 0, 1]
    assert (detectors.ready("gate"), detectors.ready("yard")) == (False, True)
    assert [problem for problem in health.problems() if "gate" in problem and "graph failed" in problem]
    assert len(caplog.records) == 1
    detectors.put("gate", None)
    assert "two" in caplog.records[-1].getMessage()
    assert health.problems() == []
    assert detectors.ready("gate")


def test_a_stream_is_ready_when_its_detector_is() -> None:
    class Slow(Counted):
        def ready(self, stream: str) -> bool:
            return False

    shared, detectors = SharedDetectors(), StreamDetectors(Counted())
    detectors.put("gate", shared.open("a", Slow))
    detectors.put("yard", shared.open("b", Counted))
    assert [detectors.ready(name) for name in ("gate", "yard", "other")] == [False, True, True]
