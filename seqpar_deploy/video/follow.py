"""People in frames, without threads: found, followed, recognised when it is worth it, and what is believed of each."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable

from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.choose import Chooser, ChooserOptions
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.fuse import Fusion, FusionOptions
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Frame, Person, TrackedBox, Tracker

Stage = Callable[[str], contextlib.AbstractContextManager[None]]  # entered around each stage, by its name


def _unmetered(_stage: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


class Follower:
    """Turns frames of one or more streams into events, which `tell` is given in order, as soon as they are known.

    One thread calls `update` with each frame. Or one calls `track` and another `recognise`, each with what is slow in
    it going on beside the other. A context manager: at its end everyone's track is. `detector` is the built-in one
    unless given, `tracker` makes a tracker for each stream, `batch_size` bounds the crops of one inference. The caller
    closes a detector that it gave, and the Recognizer.

    >>> with Follower(recognizer, tell=lambda event: print(event.kind, event.person.labels)) as follower:
    ...     for frame in frames:
    ...         boxes, people = follower.update(frame)
    """

    def __init__(
        self,
        recognizer: Recognizer,
        tell: Callable[[Event], object],
        *,
        detector: Detector | None = None,
        tracker: Callable[[], Tracker] = ByteTracker,
        chooser: ChooserOptions | None = None,
        fusion: FusionOptions | None = None,
        batch_size: int = 16,
        stage: Stage = _unmetered,
    ) -> None:
        self._recognizer, self._tell, self._stage = recognizer, tell, stage
        self._detector = detector or MotionDetector()
        self._new_tracker = tracker
        self._trackers: dict[str, Tracker] = {}
        self._chooser, self._fusion = Chooser(chooser), Fusion(recognizer.bundle.label_set, fusion)
        self._believing = threading.RLock()  # around both, and until their events are told: these stay in order
        self._one_batch = threading.RLock()  # around a batch from its choice to its events; taken before the other
        self._batch_size = batch_size
        self._seconds_a_crop = 0.0  # that recognising took lately
        self._recognizes = True  # until it fails
        self._newest = 0.0  # seconds of the frame that is furthest on
        self.people = self.crops = 0

    @property
    def unanswered(self) -> int:
        """How many people were given up: seen, but never so that a crop of them could be recognised."""
        return self._fusion.unanswered

    def update(self, frame: Frame) -> tuple[list[TrackedBox], dict[int, Person]]:
        """Who is in a frame, given in order within its stream: their boxes, and by track what is believed of those who
        have attributes. Recognises a batch where that is worth it. Raises what detector, tracker and Recognizer do."""
        boxes, _ = self.track(frame)
        self.recognise(self._newest)
        return boxes, self._fusion.people(frame.stream)

    def track(self, frame: Frame) -> tuple[list[TrackedBox], dict[int, Person]]:
        """As `update`, but recognises nothing."""
        with self._stage("detect"):
            found = self._detector.detect(frame)
        with self._stage("track"):
            if frame.stream not in self._trackers:
                self._trackers[frame.stream] = self._new_tracker()
            boxes = self._trackers[frame.stream].update(frame, found)
        with self._stage("choose"), self._believing:
            self._tell_all(self._fusion.seen(frame, boxes))
            people = self._fusion.people(frame.stream)
            self._chooser.offer(frame, boxes, people)
        self._newest = max(self._newest, frame.seconds)
        return boxes, people

    def recognise(self, now: float, *, within: float | None = None) -> bool:
        """Recognise the crops that are worth most, one batch; whether there were any.

        `now` is the time in seconds by which crops per second are counted, of any clock that does not go back. A batch
        that is expected to take longer than `within` seconds is made smaller, so that nobody new waits for it.
        """
        with self._one_batch:
            with self._believing:
                batch = self._chooser.take(self._most(within), now)
            if not batch:
                return False
            start = time.monotonic()
            try:
                with self._stage("recognise"):
                    predictions = self._recognizer.predict([candidate.crop for candidate in batch])
            except BaseException:
                self._recognizes = False
                raise
            self._seconds_a_crop = (time.monotonic() - start) / len(batch)
            self.crops += len(batch)
            with self._stage("fuse"), self._believing:
                for candidate, prediction in zip(batch, predictions, strict=True):
                    self._tell_all(self._fusion.add(candidate, prediction))
            return True

    def finish(self, stream: str) -> None:
        """A stream has ended: who was never answered is, and everyone's track ends."""
        with self._one_batch:  # what is being recognised is told before its people end
            with self._believing:
                self._chooser.finish(stream)
            while self._recognizes and self.recognise(self._newest):
                pass
            with self._believing:
                self._tell_all(self._fusion.finish(stream))
        self._trackers.pop(stream, None)

    def close(self) -> None:
        """Finish every stream. Safe to call twice."""
        for stream in list(self._trackers):
            self.finish(stream)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _most(self, within: float | None) -> int:
        """Crops of a batch."""
        if within is None or self._seconds_a_crop * self._batch_size <= within:
            return self._batch_size
        return max(1, int(within / self._seconds_a_crop))

    def _tell_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self.people += event.kind == "appeared"
            self._tell(event)
