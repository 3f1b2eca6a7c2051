"""A fault costs the sink it is in, is logged once, and is counted."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from video.sinks.people import event, frame

from seqpar_deploy.cli import console
from seqpar_deploy.errors import ReaderGoneError, SinkError
from seqpar_deploy.video.sinks import BaseSink, Sinks
from seqpar_deploy.video.sinks.metrics import Health, Metrics


class Recorder:
    """A sink that raises `fault` while there is one."""

    def __init__(self, name: str = "recorder") -> None:
        self.name = name
        self.fault: Exception | None = None
        self.calls: list[str] = []

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if self.fault:
            raise self.fault

    def frame(self, *_: Any) -> None:
        self._call("frame")

    def event(self, *_: Any) -> None:
        self._call("event")

    def close(self) -> None:
        self._call("close")


class Bench:
    """A good sink and one that fails, with a clock to turn."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.good, self.bad = Recorder("good"), Recorder("bad")
        caplog.set_level(logging.INFO, logger="seqpar_deploy")
        caplog.clear()
        self._caplog = caplog
        self.now = 0.0
        self.metrics, self.health = Metrics(), Health()
        self.none_left = 0
        self.sinks = Sinks(
            [self.bad, self.good],
            metrics=self.metrics,
            health=self.health,
            none_left=self._count,
            clock=lambda: self.now,
        )

    @property
    def said(self) -> list[str]:
        return self._caplog.messages

    def _count(self) -> None:
        self.none_left += 1

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def test_a_fault_rests_the_sink_and_is_told_once_a_spell(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    bench.bad.fault = OSError(28, "No space left on device")
    for _ in range(3):
        bench.sinks.event(event())
    assert len(bench.good.calls) == 3
    assert len(bench.bad.calls) == 1
    bench.now = 6
    bench.sinks.event(event())  # tried again, fails again, rests longer
    bench.now = 12
    bench.sinks.event(event())
    assert len(bench.bad.calls) == 2
    assert bench.said == ["bad: No space left on device; retrying, other outputs continue"]
    assert bench.value("seqpar_sink_failures_total", sink="bad") == 2
    bench.now, bench.bad.fault = 100, None
    bench.sinks.event(event())
    (ended,) = bench.said[1:]
    assert ended.startswith("bad: works again")
    assert "5 events" in ended
    assert bench.sinks.incomplete == ["bad"]
    assert bench.value("seqpar_sink_missed_total", sink="bad", what="events") == 5
    assert bench.value("seqpar_sink_failures_total", sink="good") == 0


def test_frames_that_fail_cost_no_event(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    bench.bad.fault = OSError("report.html cannot be written: No space left on device")
    bench.sinks.frame(frame(), [], {})
    bench.bad.fault = None
    bench.sinks.event(event())
    bench.sinks.frame(frame(), [], {})
    bench.now = 6
    bench.sinks.frame(frame(), [], {})
    bench.sinks.close()
    assert bench.bad.calls == ["frame", "event", "frame", "close"]
    began, ended = bench.said
    assert began.startswith("bad: report.html cannot be written: No space left on device; retrying")
    assert ended.startswith("bad: works again")
    assert "2 frames" in ended
    assert bench.sinks.incomplete == []  # what it was to tell, it did


def test_a_sink_that_cannot_go_on_is_closed_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    bench.bad.fault = SinkError("street.mp4 cannot be written: No space left on device")
    bench.sinks.frame(frame(), [], {})
    bench.now = 1000
    bench.sinks.frame(frame(), [], {})
    bench.sinks.close()
    assert bench.bad.calls == ["frame", "close"]
    assert bench.good.calls == ["frame", "frame", "close"]
    assert bench.sinks.incomplete == ["bad"]
    (line,) = bench.said
    assert line.startswith("bad: street.mp4 cannot be written: No space left on device; disabled")


def test_a_fault_in_close_is_told_and_the_others_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    bench.bad.fault = ValueError("two\nlines")
    bench.sinks.close()
    bench.sinks.close()
    (line,) = bench.said
    assert line.startswith("bad: ValueError: two lines; ")
    assert bench.sinks.incomplete == ["bad"]
    assert bench.good.calls == ["close"]


def test_what_fails_is_a_problem_while_it_does_and_what_is_left_out_for_good(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(caplog)
    assert bench.health.problems() == []
    bench.bad.fault, bench.good.fault = OSError(28, "No space left on device"), SinkError("the file is broken")
    bench.sinks.event(event())
    bench.bad.fault = None
    bench.sinks.frame(frame(), [], {})  # events still rest
    assert bench.health.problems() == [
        "bad: No space left on device; retrying",
        "good: the file is broken; disabled",
    ]
    bench.now = 6
    bench.sinks.event(event())
    bench.sinks.close()
    assert bench.health.problems() == ["good: the file is broken; disabled"]


def test_the_last_that_is_left_out_is_told_unless_its_reader_went_away(caplog: pytest.LogCaptureFixture) -> None:
    for fault, said in (
        (SinkError("the disk is full"), ["good: the disk is full; no output is left"]),
        (ReaderGoneError("its reader has gone"), []),
    ):
        bench = Bench(caplog)
        bench.bad.fault = SinkError("x")
        bench.sinks.frame(frame(), [], {})
        assert (bench.none_left, bench.sinks.all_lost) == (0, [])
        bench.good.fault = fault
        bench.sinks.event(event())
        bench.sinks.event(event())
        assert (bench.none_left, bench.sinks.all_lost) == (1, [bench.bad.fault, fault])
        assert bench.said[1:] == said
        assert bench.sinks.incomplete == ["bad", "good"][: 1 + len(said)]


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def close(self) -> None:
            raise BrokenPipeError

    came: list[str] = []

    def app(**_options: object) -> None:
        came.append("here")
        print("a line")

    monkeypatch.setattr("sys.stderr", Gone())
    monkeypatch.setattr("sys.stdout", Gone())
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("warnings.showwarning", None)
    with pytest.raises(SystemExit) as ended:
        console.run_app(app)  # type: ignore[arg-type]
    assert (ended.value.code, came) == (0, ["here"])


def test_the_end_of_a_stream_reaches_those_who_take_it() -> None:
    class Ends(BaseSink):
        def __init__(self) -> None:
            self.ended: list[str] = []

        def stream_ended(self, stream: str) -> None:
            self.ended.append(stream)
            if stream == "bad":
                raise OSError("no")

    class Old:
        """A sink of a user, of an earlier version."""

        def frame(self, *_: object) -> None: ...
        def event(self, *_: object) -> None: ...
        def close(self) -> None: ...

    first, last = Ends(), Ends()
    sinks = Sinks([first, Old(), last])  # type: ignore[list-item]
    for stream in ("a", "bad"):
        sinks.stream_ended(stream)
    assert first.ended == last.ended == ["a", "bad"]
