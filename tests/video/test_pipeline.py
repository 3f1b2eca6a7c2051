"""The stages together, on the street clip and on a made-up detector, with a tiny random model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import pytest
from video.clips import make_clip
from video.stream_server import StreamServer

from seqpar_deploy import Recognizer
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video import pipeline as pipeline_module
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.sinks import BaseSink
from seqpar_deploy.video.sinks.metrics import Metrics
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, expand_sources
from seqpar_deploy.video.types import Box, Event, Frame, Person, TrackedBox, Tracker

pytestmark = pytest.mark.slow

STREET = data_dir("samples") / "vtest" / "street.mp4"


class OneWalker:
    """Finds one person, in the frames of the first half."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        self.fails_at, self.closed = fails_at, False

    def detect(self, frame: Frame) -> list[Box]:
        if frame.index == self.fails_at:
            raise RuntimeError("the detector broke")
        return [Box(left=20 + frame.index, top=10, right=60 + frame.index, bottom=110)] if frame.index < 50 else []

    def close(self) -> None:
        self.closed = True


class Straight:
    """Whoever is found is always the same."""

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        return [TrackedBox(track_id=1, box=box) for box in boxes]


class Passersby(OneWalker):
    """Somebody in every frame, for as long as it runs; somebody else every ten frames."""

    def detect(self, frame: Frame) -> list[Box]:
        return [Box(left=20, top=10, right=60, bottom=110)]

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        return [TrackedBox(track_id=1 + frame.index // 10, box=box) for box in boxes]


class Notebook:
    """A sink that records its calls."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.events: list[tuple[str, str, int]] = []
        self.closed = 0

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        self.frames.append(frame.index)

    def event(self, event: Event) -> None:
        self.events.append((event.kind, event.person.stream, event.person.track_id))

    def close(self) -> None:
        self.closed += 1


def pipeline(
    bundle_dir: Path,
    names: list[str],
    sink: Notebook,
    detector: OneWalker,
    *,
    live: bool | None = None,
    tracker: Callable[[], Tracker] = Straight,
    metrics: Metrics | None = None,
) -> Pipeline:
    specs = [
        SourceSpec(name=spec.name, place=spec.place, live=spec.live if live is None else live)
        for spec in expand_sources(names)
    ]
    recognizer = Recognizer.from_bundle(bundle_dir)
    return Pipeline([Source(spec) for spec in specs], detector, recognizer, sink, tracker=tracker, metrics=metrics)


def test_a_file_is_processed_from_its_first_frame_to_its_last(bundle_dir: Path) -> None:
    runs = []
    for _ in range(2):
        notebook = Notebook()
        summary = pipeline(bundle_dir, [str(STREET)], notebook, OneWalker()).run()
        assert notebook.frames == list(range(100))
        assert notebook.events[0][0] == "appeared"
        assert notebook.events[-1][0] == "ended"
        assert (summary.frames, summary.dropped, summary.failed) == ({"street": 100}, {"street": 0}, {})
        assert (summary.people, notebook.closed) == (1, 1)
        assert 1 <= summary.crops <= 50
        assert summary.stages["detect"][0] == 100
        runs.append(notebook.events)
    assert runs[0] == runs[1]


def test_progress_ends_at_the_last_frame(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "_LOOK_EVERY", 0.05)
    names = [str(tmp_path / f"{name}.mp4") for name in "ab"]
    for name in names:
        Path(name).symlink_to(STREET)
    seen: list[tuple[int, int]] = []
    sources = [Source(spec) for spec in expand_sources(names)]
    with Recognizer.from_bundle(bundle_dir) as recognizer:
        Pipeline(
            sources, OneWalker(), recognizer, BaseSink(), on_progress=lambda done, total: seen.append((done, total))
        ).run()
    assert seen[-1] == (200, 200)
    assert {total for _, total in seen} == {200}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 2


def test_several_streams_share_one_recognizer(bundle_dir: Path, tmp_path: Path) -> None:
    names = [str(tmp_path / f"{name}.mp4") for name in "ab"]
    for name in names:
        Path(name).symlink_to(STREET)
    notebook = Notebook()
    summary = pipeline(bundle_dir, names, notebook, OneWalker()).run()
    assert summary.frames == {"a": 100, "b": 100}
    for stream in "ab":
        kinds = [kind for kind, of, _ in notebook.events if of == stream]
        assert (kinds[0], kinds[-1], kinds.count("ended")) == ("appeared", "ended", 1)


def test_a_detector_that_breaks_ends_the_run_and_closes_the_sinks(bundle_dir: Path) -> None:
    notebook = Notebook()
    with pytest.raises(RuntimeError, match="the detector broke"):
        pipeline(bundle_dir, [str(STREET)], notebook, OneWalker(fails_at=30)).run()
    assert notebook.frames == list(range(30))
    assert notebook.closed == 1
    assert notebook.events[-1][0] == "ended"  # who was there is told of


class Broken:
    """A Recognizer whose runtime fails at its third batch."""

    def __init__(self, sound: Recognizer) -> None:
        self.bundle, self._sound, self.calls = sound.bundle, sound, 0

    def predict(self, crops: Sequence[Crop], *, drafts: Any = None) -> list[Prediction]:
        self.calls += 1
        if self.calls > 2:
            raise MemoryError
        return self._sound.predict(crops)


@pytest.mark.parametrize("live", [False, True])
def test_a_recogniser_that_breaks_ends_the_run_and_everyones_track(bundle_dir: Path, live: bool) -> None:
    notebook, people = Notebook(), Passersby()
    made = pipeline(bundle_dir, [str(STREET)], notebook, people, live=live, tracker=lambda: people)
    made.follower._recognizer = Broken(made.follower._recognizer)  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        made.run()
    assert notebook.closed == 1
    assert notebook.events[-1][0] == "ended"
    told, ended = ([track for kind, _, track in notebook.events if kind == which] for which in ("appeared", "ended"))
    assert sorted(told) == sorted(ended) != []
    assert made.follower._recognizer.calls == 3  # type: ignore[attr-defined]


def test_a_sink_that_hangs_keeps_nobody(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline_module, "_HUNG_AFTER", 1.0)
    forever = threading.Event()

    class Hanging(Notebook):
        def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
            super().frame(frame, boxes, people)
            if frame.index == 5:
                forever.wait()

    sink = Hanging()
    made = pipeline(bundle_dir, [str(STREET)], sink, OneWalker())
    ended: list[Summary] = []
    running = threading.Thread(target=lambda: ended.append(made.run()))
    running.start()
    wait_for(lambda: 5 in sink.frames)
    made.request_stop()
    running.join(20)
    assert not running.is_alive()
    assert [message for message in caplog.messages if "sink hangs" in message] == caplog.messages != []
    assert ended[0].hung
    forever.set()


def test_a_source_that_cannot_be_read_costs_only_itself(
    bundle_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    notebook = Notebook()
    made = pipeline(bundle_dir, [str(STREET), str(broken)], notebook, OneWalker())
    summary = made.run()
    assert summary.frames == {"street": 100}
    assert list(summary.failed) == ["broken"]
    assert caplog.messages[0].startswith("broken: ")


def command(bundle_dir: Path, folder: Path, *sources: object) -> list[str]:
    outputs = ["--events", folder / "e.jsonl", "--annotate", folder / "out.mp4", "--report", folder / "people.html"]
    words = [Path(sys.executable).parent / "seqpar", "video", *sources, "--bundle", bundle_dir, *outputs]
    return [str(word) for word in words]


def decoded(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_the_command_on_the_street_clip(bundle_dir: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*command(bundle_dir, tmp_path, STREET), "--profile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "people, " in done.stderr
    assert all(
        f"{stage} " in done.stderr for stage in ("decode", "detect", "track", "select", "recognize", "fuse", "sinks")
    )
    events = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    tracks = {event["track_id"] for event in events}
    assert len(tracks) >= 8  # about ten people walk through the clip
    assert {event["track_id"] for event in events if event["event"] == "ended"} == tracks
    assert decoded(tmp_path / "out.mp4") == 100
    assert "<!doctype html>" in (tmp_path / "people.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_finishes_its_files(bundle_dir: Path, tmp_path: Path, number: signal.Signals) -> None:
    clips = []
    for index in range(6):
        clips.append(tmp_path / f"clip{index}.mp4")
        clips[-1].symlink_to(STREET)
    words = ["env", "--default-signal=HUP", *command(bundle_dir, tmp_path, *clips)]  # also if the tests run under nohup
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (tmp_path / "e.jsonl").exists() and (tmp_path / "e.jsonl").read_text().count("\n") > 3:
                break
            time.sleep(0.1)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    events = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    people = {(event["stream"], event["track_id"]) for event in events}
    assert {(event["stream"], event["track_id"]) for event in events if event["event"] == "ended"} == people
    assert 0 < decoded(tmp_path / "out-clip0.mp4") < 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nothing.mp4"], "nothing.mp4"),
        ([str(STREET), "--detector", "none.onnx"], "none.onnx"),
        ([str(STREET), "--annotate", str(STREET)], "is also an input"),
        ([str(STREET), "--report", str(STREET)], "is also an input"),
        ([str(STREET), "--events", "x", "--report", "x"], "is also another output"),
        ([str(STREET), "rtsp://127.0.0.1:9/x"], "all files or all live"),
        ([str(STREET), "--serve", "0", "--mqtt", "http://x", "--report", "people.html"], "mqtt"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_leaves_nothing(
    bundle_dir: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    words = [str(Path(sys.executable).parent / "seqpar"), "video", *options, "--bundle", str(bundle_dir)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert message in line


def test_a_stream_goes_on_after_its_server_was_killed_and_loses_no_event(bundle_dir: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", frames=60)
    notebook, metrics = Notebook(), Metrics()

    def value(name: str) -> float:
        return metrics.registry.get_sample_value(name, {"stream": stream}) or 0

    with StreamServer() as server:
        running = pipeline(bundle_dir, [server.url(clips=[clip], speed=2)], notebook, OneWalker(), metrics=metrics)
        summaries: list[Summary] = []
        thread = threading.Thread(target=lambda: summaries.append(running.run()))
        thread.start()
        wait_for(lambda: any(kind == "appeared" for kind, _, _ in notebook.events))
        told = list(notebook.events)
        (stream,) = running._sources
        server.kill()
        wait_for(lambda: value("seqpar_source_back_off_seconds") > 0)
        server.start()
        seen = len(notebook.frames)
        wait_for(lambda: value("seqpar_source_reconnects_total") == 1)
        wait_for(lambda: len(notebook.frames) > seen + 10)
        running.stop()
        thread.join(30)
        assert not thread.is_alive()
    assert notebook.events[: len(told)] == told
    assert notebook.frames == sorted(set(notebook.frames))
    assert notebook.events[-1][0] == "ended"
    assert notebook.closed == 1
    (summary,) = summaries
    assert next(iter(summary.frames.values())) == len(notebook.frames)


def wait_for(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
