"""People in frames, without threads: found, followed, recognised when it is worth it, and what is believed of each."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from seqpar_deploy.errors import DetectorError, VideoError
from seqpar_deploy.preprocess import check_crop
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.attribute_fusion import Fusion, FusionOptions
from seqpar_deploy.video.crop_selection import Chooser, ChooserOptions
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box, Detector, Event, Frame, Person, TrackedBox, Tracker

Stage = Callable[[str], contextlib.AbstractContextManager[None]]  # entered around each stage, by its name


def _unmetered(_stage: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


class Follower:
    """Turns frames of one or more streams into events, which `tell` is given in order, as soon as they are known.

    One thread calls `update` with each frame. Or one calls `track` and another `recognize`, each with what is slow in
    it going on beside the other. A context manager: at its end everyone's track is. `detector` is the built-in one
    unless given, `tracker` makes a tracker for each stream, `batch_size` bounds the crops of one inference. The caller
    closes a detector that it gave, and the Recognizer.

    A stream that is given frames again after `finish` begins anew, and numbers its people from 1 again. What `tell`
    raises is raised when everyone was told; it may not call the Follower.

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
        for name in ("patience", "give_up"):  # each is asked without the other, and they must not disagree
            ours, theirs = (getattr(each.options, name) for each in (self._chooser, self._fusion))
            if ours != theirs:
                raise VideoError(f"{name} is {ours:g} in ChooserOptions, {theirs:g} in FusionOptions; wanted one value")
        self._believing = threading.RLock()  # around both, and until their events are told: these stay in order
        self._one_batch = threading.RLock()  # around a batch from its choice to its events; taken before the other
        self._teller: int | None = None  # the thread that is in `tell`
        self._batch_size = batch_size
        self._seconds_a_crop = 0.0  # that recognising took lately
        self._recognizes = True  # until it fails
        self._seconds: dict[str, float] = {}  # of the last frame of each stream
        self._before = 0.0  # seconds of the streams that had all ended when those of now began
        self._newest = 0.0  # these, and those of the frame that is furthest on
        self._closed = False
        self.answered = self.crops = 0  # people and crops so far

    @property
    def unanswered(self) -> int:
        """How many people were given up: seen, but never so that a crop of them could be recognised."""
        return self._fusion.unanswered

    def update(self, frame: Frame) -> tuple[list[TrackedBox], dict[int, Person]]:
        """Who is in a frame, given in order within its stream: their boxes, and by track what is believed of those who
        have attributes. Recognises a batch where that is worth it.

        Raises ImageError (a picture that is none), VideoError (a time before the last; closed), DetectorError (boxes
        that are none), and what detector, tracker and Recognizer do.
        """
        boxes, _ = self.track(frame)
        self.recognize()
        with self._believing:
            return boxes, self._fusion.people(frame.stream)

    def track(self, frame: Frame) -> tuple[list[TrackedBox], dict[int, Person]]:
        """As `update`, but recognises nothing."""
        self._refuse("track")
        self._check(frame)
        with self._stage("detect"):
            found = _within(frame, self._detector.detect(frame))
        with self._stage("track"):
            if frame.stream not in self._trackers:
                self._trackers[frame.stream] = self._new_tracker()
            boxes = self._trackers[frame.stream].update(frame, found)
            if len({tracked.track for tracked in boxes}) < len(boxes):
                numbers = sorted(tracked.track for tracked in boxes)
                raise VideoError(
                    f"the tracker numbered people {numbers} in one frame; wanted a number of its own for each"
                )
        self._seconds[frame.stream] = frame.seconds
        self._newest = max(self._newest, self._before + frame.seconds)
        with self._stage("choose"), self._believing:
            left = self._fusion.seen(frame, boxes)
            people = self._fusion.people(frame.stream)
            self._chooser.offer(frame, boxes, people)
            self._tell_all(left)
        return boxes, people

    def recognize(self, now: float | None = None, *, within: float | None = None) -> bool:
        """Recognise the crops that are worth most, one batch; whether there were any.

        `now` is the time in seconds by which crops per second are counted, of any clock that does not go back; by that
        of the frames, unless given. A batch that is expected to take longer than `within` seconds is made smaller, so
        that nobody new waits for it.
        """
        self._refuse("recognize", closed=False)  # this thread may notice later than the one that closed it
        with self._one_batch:
            with self._believing:
                batch = self._chooser.take(self._most(within), self._newest if now is None else now)
            if not batch:
                return False
            start = time.monotonic()
            try:
                with self._stage("recognize"):
                    predictions = self._recognizer.predict([candidate.crop for candidate in batch])
            except BaseException:
                self._recognizes = False
                raise
            self._recognizes = True
            self._seconds_a_crop = (time.monotonic() - start) / len(batch)
            self.crops += len(batch)
            with self._stage("fuse"), self._believing:
                answers = zip(batch, predictions, strict=True)
                self._tell_all([event for answer in answers for event in self._fusion.add(*answer)])
            return True

    def finish(self, stream: str) -> None:
        """A stream has ended: who was never answered is, and everyone's track ends, also where this raises."""
        self._refuse("finish", closed=False)
        self._trackers.pop(stream, None)
        self._seconds.pop(stream, None)
        if not self._seconds:
            self._before = self._newest
        # What is being recognised is told before its people end.
        with self._one_batch, contextlib.ExitStack() as ending:
            ending.callback(self._end, stream)
            with self._believing:
                self._chooser.finish(stream)
            while self._recognizes and self.recognize():
                pass

    def close(self) -> None:
        """Finish every stream; no more frames are taken. Safe to call twice."""
        self._refuse("close", closed=False)
        self._closed = True
        with contextlib.ExitStack() as ending:
            for stream in reversed(self._trackers):
                ending.callback(self.finish, stream)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _end(self, stream: str) -> None:
        with self._believing:
            self._chooser.forget(stream)
            self._tell_all(self._fusion.finish(stream))

    def _refuse(self, what: str, *, closed: bool = True) -> None:
        """Raise where the call would wait for its own thread, or come too late."""
        if self._teller == threading.get_ident():
            raise VideoError(f"{what} was called by what the Follower tells; keep the event, and call it afterwards")
        if closed and self._closed:
            raise VideoError("this Follower is closed; make another")

    def _check(self, frame: Frame) -> None:
        """Raise where the frame cannot be the next of its stream."""
        check_crop(frame.image, f"frame {frame.index} of {frame.stream}")
        if not math.isfinite(frame.seconds):
            raise VideoError(f"frame {frame.index} of {frame.stream} is at {frame.seconds} s; wanted a number")
        if frame.seconds < (last := self._seconds.get(frame.stream, frame.seconds)):
            raise VideoError(
                f"frame {frame.index} of {frame.stream} is at {frame.seconds:g} s, after one at {last:g} s; wanted "
                f"them in order, or finish({frame.stream!r}) before it starts anew"
            )

    def _most(self, within: float | None) -> int:
        """Crops of a batch."""
        if within is None or self._seconds_a_crop * self._batch_size <= within:
            return self._batch_size
        return max(1, int(within / self._seconds_a_crop))

    def _tell_all(self, events: Iterable[Event]) -> None:
        failed: Exception | None = None
        self._teller = threading.get_ident()  # by who holds `_believing`
        try:
            for event in events:
                self.answered += event.kind == "appeared"
                try:
                    self._tell(event)
                except Exception as error:
                    failed = failed or error
        finally:
            self._teller = None
        if failed:
            raise failed


def _within(frame: Frame, boxes: Sequence[Box]) -> list[Box]:
    """What of the boxes is in the frame, without those of which nothing is."""
    height, width = frame.image.shape[:2]
    found = []
    for box in boxes:
        if not (box.left <= box.right < math.inf and box.top <= box.bottom < math.inf and box.score >= 0):
            raise DetectorError(f"the detector found {box} in frame {frame.index}; wanted left <= right, top <= bottom")
        if box.left < 0 or box.top < 0 or box.right > width or box.bottom > height:
            left, top, right, bottom = max(0, box.left), max(0, box.top), min(width, box.right), min(height, box.bottom)
            box = dataclasses.replace(box, left=left, top=top, right=right, bottom=bottom)
        if box.left < box.right and box.top < box.bottom:
            found.append(box)
    return found
