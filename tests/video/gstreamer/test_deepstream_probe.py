"""The DeepStream example stops at an error, on a stand-in for GStreamer: no machine of the tests has DeepStream."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from video.gstreamer.people import FakeRecognizer

from seqpar_deploy import Recognizer

EXAMPLE = Path(__file__).parents[3] / "examples" / "deepstream_probe.py"


class Pipeline:
    """Pipeline, element, pad and bus in one. PLAYING passes three buffers to the probe."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.messages: list[Any] = []
        self.passed = 0

    def get_by_name(self, _name: str) -> Pipeline:
        return self

    def get_static_pad(self, _name: str) -> Pipeline:
        return self

    def get_bus(self) -> Pipeline:
        return self

    def add_probe(self, _kind: str, probe: Any) -> None:
        self.probe = probe

    def post_message(self, message: Any) -> None:
        self.messages.append(message)

    def set_state(self, state: str) -> None:
        self.states.append(state)
        while state == "PLAYING" and self.passed < 3:
            self.passed += 1
            if self.probe(self, SimpleNamespace(get_buffer=object)) != "OK":
                return

    def timed_pop_filtered(self, _time: int, _kinds: int) -> Any:
        return self.messages[0] if self.messages else SimpleNamespace(type=1)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Stands in for GStreamer and the recognizer. The objects of DeepStream break."""
    made = Pipeline()

    def new_error(_source: Any, reason: str, debug: str) -> Any:
        return SimpleNamespace(type=2, debug=debug, parse_error=lambda: (SimpleNamespace(message=reason), debug))

    gi, repository, pyds = ModuleType("gi"), ModuleType("gi.repository"), ModuleType("pyds")
    gi.require_version = lambda *_: None  # type: ignore[attr-defined]
    repository.GLib = SimpleNamespace(  # type: ignore[attr-defined]
        Error=SimpleNamespace(new_literal=lambda _quark, text, _code: text)
    )
    repository.Gst = SimpleNamespace(  # type: ignore[attr-defined]
        init=lambda _arguments: None,
        parse_launch=lambda _line: made,
        CLOCK_TIME_NONE=-1,
        Message=SimpleNamespace(new_error=new_error),
        MessageType=SimpleNamespace(EOS=1, ERROR=2),
        PadProbeReturn=SimpleNamespace(OK="OK", REMOVE="REMOVE"),
        PadProbeType=SimpleNamespace(BUFFER="BUFFER"),
        State=SimpleNamespace(PLAYING="PLAYING", NULL="NULL"),
        StreamError=SimpleNamespace(FAILED=1, quark=lambda: 1),
    )
    for module in (gi, repository, pyds):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Recognizer, "from_bundle", lambda *_: FakeRecognizer())
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, "a.mp4", "bundle", "--detector", "d.txt", "--tracker", "t.so"])
    return made


def test_an_error_in_the_probe_stops_the_pipeline(pipeline: Pipeline) -> None:
    with pytest.raises(SystemExit, match="gst_buffer_get_nvds_batch_meta"):  # the stand-in of pyds has no function
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert pipeline.passed == 1
    assert pipeline.states == ["PLAYING", "NULL"]
    assert "Traceback" in pipeline.messages[0].debug
