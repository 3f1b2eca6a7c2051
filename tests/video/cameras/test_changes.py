"""Cameras that are added, changed and removed while others are watched."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("av")
from video.clips import make_clip

from seqpar_deploy import Recognizer
from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.cameras.manager import Cameras, Changes, Opened
from seqpar_deploy.video.cameras.reloading import Reloader, state_of
from seqpar_deploy.video.cameras.settings import CameraSettings
from seqpar_deploy.video.detect.per_stream import StreamDetectors
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.sinks import BaseSink, Health
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.types import Box, Event, Frame, TrackedBox
from seqpar_deploy.video.zones.settings import LineSettings, SceneSettings

pytestmark = pytest.mark.slow

PATIENCE = 60.0  # s. Only a test that fails waits this long


class OnePerson:
    """A detector that finds the same box in each frame, and counts how many of its kind are open."""

    open = 0

    def __init__(self, score: float = 1.0) -> None:
        self.score, self.closed = score, False
        OnePerson.open += 1

    def detect(self, frame: Frame) -> list[Box]:
        assert not self.closed
        return [Box(left=20, top=10, right=60, bottom=110, score=self.score)]

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            OnePerson.open -= 1


class Passersby:
    """A tracker for which somebody else comes every ten frames, whatever frames were dropped."""

    def __init__(self) -> None:
        self.frames = 0

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        self.frames += 1
        return [TrackedBox(track_id=1 + (self.frames - 1) // 10, box=box) for box in boxes]


class Notebook(BaseSink):
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.frames: Counter[str] = Counter()

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: object) -> None:
        self.frames[frame.stream] += 1

    def event(self, event: Event) -> None:
        self.events.append(event)

    def tracks(self, stream: str) -> dict[str, list[int]]:
        """Return the track IDs of a stream's events by kind."""
        of = [event for event in self.events if event.person.stream == stream]
        return {kind: [e.person.track_id for e in of if e.kind == kind] for kind in ("appeared", "ended")}


class Run:
    """An open-ended pipeline in a thread."""

    def __init__(self, recognizer: Recognizer, clip: Path) -> None:
        self.notebook, self.clip = Notebook(), clip
        self.detectors = StreamDetectors(OnePerson())
        self.pipeline = Pipeline([], self.detectors, recognizer, self.notebook, tracker=Passersby, open_ended=True)
        self.scenes: dict[str, SceneSettings | None] = {}
        self.cameras = Cameras(self.pipeline, self.detectors, self.open, self.scenes.__setitem__)
        self.summary: list[Summary] = []
        self._thread = threading.Thread(target=lambda: self.summary.append(self.pipeline.run()))
        self._thread.start()

    def open(self, name: str, settings: CameraSettings) -> Opened:
        if settings.address == "broken":
            raise VideoError("address must be a camera, got broken")
        spec = SourceSpec(name=name, place=str(self.clip), live=True)
        detector = OnePerson(settings.detector_threshold) if settings.detector_threshold is not None else None
        return Opened(source=Source(spec), detector=detector)

    def wait_for(self, stream: str, frames: int = 1) -> None:
        wanted = self.notebook.frames[stream] + frames
        wait_until(lambda: self.notebook.frames[stream] >= wanted)

    def end(self) -> Summary:
        self.pipeline.request_stop()
        self._thread.join(PATIENCE)
        self.cameras.close()
        self.detectors.close()
        return self.summary[0]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def run(bundle_dir: Path, live_clip: Path) -> Iterator[Run]:
    OnePerson.open = 0
    with Recognizer.from_bundle(bundle_dir, threads=1) as recognizer:
        run = Run(recognizer, live_clip)
        yield run
        run.end()


@pytest.fixture(scope="module")
def live_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.ts", frames=60)


def settings(**given: object) -> CameraSettings:
    return CameraSettings(address="0", **given)  # type: ignore[arg-type]


def assert_complete(tracks: dict[str, list[int]]) -> None:
    """Each person appeared once and ended once, and no number is missing."""
    assert tracks["appeared"] == sorted(set(tracks["appeared"]))
    assert sorted(tracks["ended"]) == tracks["appeared"]


def test_fifty_changes_lose_no_event_of_an_unchanged_camera_and_leak_nothing(run: Run) -> None:
    run.cameras.apply({"still": settings()})
    run.wait_for("still")
    gc.collect()
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(50):
        others = {f"other-{number % 3}": settings(detector_threshold=0.5 + number / 100)}
        if number % 5 == 0:
            others["extra"] = settings()
        run.cameras.apply({"still": settings(), **others})
        if number % 10 == 0:
            run.wait_for(f"other-{number % 3}")
    run.cameras.apply({"still": settings()})
    run.wait_for("still", 30)
    wait_until(lambda: threading.active_count() <= threads)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= files)
    wait_until(lambda: OnePerson.open == 1)  # that of the run
    summary = run.end()
    still = run.notebook.tracks("still")
    assert_complete(still)
    assert still["appeared"] == list(range(1, 1 + len(still["appeared"])))
    assert len(still["appeared"]) >= summary.frames["still"] // 10
    for stream in summary.frames:
        assert_complete(run.notebook.tracks(stream))
    assert summary.failed == {}


def test_a_changed_camera_has_its_new_detector_and_new_track_ids(run: Run) -> None:
    assert run.cameras.apply({"gate": settings(detector_threshold=0.6)}) == Changes(added=("gate",))
    wait_until(lambda: run.notebook.events != [])
    assert run.cameras.apply({"gate": settings(detector_threshold=0.9)}) == Changes(changed=("gate",))
    wait_until(lambda: any(e.person.last.box.score == 0.9 for e in run.notebook.events))
    run.end()
    scores = [event.person.last.box.score for event in run.notebook.events]
    assert scores == sorted(scores)  # the old people ended before the new ones came
    assert scores[0] == 0.6
    assert_complete(run.notebook.tracks("gate"))


def test_a_camera_that_cannot_be_opened_changes_nothing(run: Run) -> None:
    run.cameras.apply({"gate": settings()})
    with pytest.raises(VideoError, match="broken"):
        run.cameras.apply({"yard": settings(detector_threshold=0.5), "door": CameraSettings(address="broken")})
    assert OnePerson.open == 1
    run.wait_for("gate")
    assert run.cameras.apply({"gate": settings()}) == Changes()
    assert run.cameras.apply({}) == Changes(removed=("gate",))
    wait_until(lambda: run.pipeline._sources == {})


def test_a_new_scene_does_not_open_the_camera_again(run: Run) -> None:
    run.cameras.apply({"gate": settings()})
    run.wait_for("gate")
    source = run.pipeline._sources["gate"]
    lines = {"door": LineSettings(points=((0, 0), (1, 1)))}
    assert run.cameras.apply({"gate": settings(lines=lines)}) == Changes(changed=("gate",))
    assert run.scenes["gate"] == SceneSettings(lines=lines)
    run.wait_for("gate")
    assert run.pipeline._sources["gate"] is source
    run.cameras.apply({})
    assert run.scenes["gate"] is None


def test_changes_after_the_end_leave_no_detector_open(run: Run) -> None:
    run.end()
    run.cameras.apply({"late": settings(detector_threshold=0.5)})
    run.cameras.close()
    assert OnePerson.open == 1
    assert run.notebook.frames["late"] == 0


def test_a_file_is_applied_when_it_changes_and_ignored_while_it_is_wrong(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    file, health = tmp_path / "c.toml", Health()
    file.write_text("gate")

    def parse(content: bytes) -> dict[str, CameraSettings]:
        names = content.decode().split()
        if "wrong" in names:
            raise VideoError("c.toml must be right, got wrong")
        return {name: settings() for name in names}

    run.cameras.apply(parse(file.read_bytes()))
    reloader = Reloader(file, parse, run.cameras, health=health)
    try:
        run.wait_for("gate")
        file.write_text("gate yard")
        run.wait_for("yard")
        file.write_text("wrong gate")
        wait_until(lambda: any("got wrong" in problem for problem in health.problems()))
        assert reloader.posts()["/config/reload"]("", b"").status == 409
        run.wait_for("yard")
        file.write_text("yard")
        answer = reloader.posts()["/config/reload"]("", b"")
        assert (answer.status, answer.body) == (200, b"removed gate\n")
        assert health.problems() == []
    finally:
        reloader.close()
    assert sum("go on as they were" in record.getMessage() for record in caplog.records) <= 1


def test_a_file_that_was_cut_short_removes_no_camera(run: Run, tmp_path: Path) -> None:
    file, health = tmp_path / "c.toml", Health()
    file.write_text("gate")
    run.cameras.apply({"gate": settings()})
    reloader = Reloader(
        file, lambda content: {n: settings() for n in content.decode().split()}, run.cameras, health=health
    )
    try:
        run.wait_for("gate")
        file.write_text("")
        wait_until(lambda: any("must have a camera" in problem for problem in health.problems()))
        run.wait_for("gate")
        assert reloader.edit(lambda _content: "") == "removed gate"  # by request the last one may go
    finally:
        reloader.close()


def test_a_file_that_is_being_written_is_applied_once_it_is_whole(run: Run, tmp_path: Path) -> None:
    file, applied = tmp_path / "c.toml", []
    file.write_text("gate")

    def parse(content: bytes) -> dict[str, CameraSettings]:
        applied.append(content.decode().split())
        return {name: settings() for name in applied[-1]}

    run.cameras.apply({"gate": settings()})
    reloader = Reloader(file, parse, run.cameras)
    try:
        for number in range(30):  # for 3 s, longer than from one look to the next
            file.write_text(" ".join(["gate", *(f"y{n}" for n in range(number % 3))]) + " " * number)
            time.sleep(0.1)
        assert applied == []
        file.write_text("gate yard")
        run.wait_for("yard")
    finally:
        reloader.close()
    assert applied == [["gate", "yard"]]


def test_a_change_before_the_first_look_is_applied(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("gate")
    seen = state_of(file)
    run.cameras.apply({"gate": settings()})
    file.write_text("gate yard")  # while a bundle loads
    reloader = Reloader(file, lambda content: {n: settings() for n in content.decode().split()}, run.cameras, seen=seen)
    try:
        run.wait_for("yard")
    finally:
        reloader.close()


def test_a_request_keeps_the_links_and_permissions_of_the_file(run: Run, tmp_path: Path) -> None:
    file, link = tmp_path / "private.toml", tmp_path / "c.toml"
    file.write_text("[cameras.gate]\naddress = '0'\n")
    file.chmod(0o600)
    link.symlink_to(file)
    wanted = {"gate": settings()}
    run.cameras.apply(wanted)
    reloader = Reloader(link, lambda _content: wanted, run.cameras)
    try:
        assert reloader.edit(lambda content: content + "# changed\n") == "no camera changed"
    finally:
        reloader.close()
    assert link.is_symlink()
    assert file.read_text().endswith("# changed\n")
    assert file.stat().st_mode & 0o777 == 0o600


def test_any_fault_of_a_change_is_one_line_and_the_file_is_followed_on(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("x")

    def parse(content: bytes) -> dict[str, CameraSettings]:
        if content == b"bad":
            raise RuntimeError("the runtime failed")
        return {"gate": settings()} if content == b"gate" else {}

    reloader = Reloader(file, parse, run.cameras)
    try:
        file.write_text("bad")
        assert reloader.posts()["/config/reload"]("", b"").status == 409
        file.write_text("gate")
        run.wait_for("gate")
    finally:
        reloader.close()
