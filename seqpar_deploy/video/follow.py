"""The pipeline's stages without threads: detect, track, select, recognise, aggregate."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.errors import VideoError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import check_crop
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.video.attribute_fusion import AttributeFusion
from seqpar_deploy.video.crop_selection import Candidate, CropSelector
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.detect.opencv import import_cv2
from seqpar_deploy.video.finding import Finder
from seqpar_deploy.video.options import VideoOptions
from seqpar_deploy.video.privacy.veil import Veil
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, ForgetsStreams, Frame, Person, Readiness, TrackedBox, Tracker

Followed = tuple[Frame, list[TrackedBox], dict[int, Person]]
Stage = Callable[[str], contextlib.AbstractContextManager[None]]  # entered around each stage, by its name
OnPrediction = Callable[[Candidate, Prediction, bool], object]


def _unmetered(_stage: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


class Follower:
    """Converts frames of one or more streams to events, in the caller's own loop.

    Call `update` with each frame. Or call `track` in one thread and `recognize` in another, so that tracking does not
    wait for inference. A `Follower` is a context manager. At the end of the block all tracks end. The caller closes the
    Recognizer and a detector that it passed.

    If the size of a stream's frames changes, its tracks end, and new ones begin.
    After `finish(stream)`, further frames of that stream start anew. Track IDs go on, so that none comes twice.

    Args:
        recognizer: Classifies the crops.
        on_event: Called with each event, in order. If it raises, the exception is raised after all events of that call
            were emitted. It must not call the Follower.
        options: Options of crop selection, fusion and track lifetime. Default: `VideoOptions()`.
        detector: Detects people. Default: the built-in detector, for fixed cameras.
        tracker: Function that returns a tracker for a stream. Default: `ByteTracker`.
        stage: Function that returns a context manager for a stage's name, for example to measure time. Default: none.
        on_prediction: Functions to call with each recognised crop, its prediction, and whether it is the first of its
            track. With `VideoOptions.blur`, the crop is blurred by then. They run in the thread that recognises, after
            the events. Default: none.

    Attributes:
        recognized: Number of people with attributes so far.
        crops: Number of crops recognised so far.

    Raises:
        BackendUnavailableError: OpenCV is not installed, which the built-in detector and `VideoOptions.blur` need.

    Example:
        with Follower(recognizer, lambda event: print(event.kind, event.person.labels)) as follower:
            for frame in frames:
                boxes, people = follower.update(frame)
    """

    def __init__(
        self,
        recognizer: AnyRecognizer,
        on_event: Callable[[Event], object],
        *,
        options: VideoOptions = VideoOptions(),
        detector: Detector | None = None,
        tracker: Callable[[], Tracker] = ByteTracker,
        stage: Stage = _unmetered,
        on_prediction: Sequence[OnPrediction] = (),
    ) -> None:
        self._recognizer, self._on_event, self._stage = recognizer, on_event, stage
        self._on_prediction = on_prediction
        self._detector = detector or MotionDetector()
        self._new_tracker = tracker
        self._finders: dict[str, Finder] = {}
        self._last_ids: dict[str, int] = {}  # of streams that were finished
        self._blur, self._veils = options.blur, dict[str, Veil]()  # by stream, if pictures are blurred
        if options.blur is not None:
            import_cv2("blurring")  # fails now if it is missing, not at the first frame
        self._selector = CropSelector(options.selection, options.lifetime)
        self._fusion = AttributeFusion(recognizer.label_set, options.fusion, options.lifetime, recognizer.thresholds)
        # Held while selector or fusion changes, until the events are emitted: so events stay in order.
        self._state_lock = threading.RLock()
        self._batch_lock = threading.RLock()  # held for a batch, from selection to events; taken before `_state_lock`
        self._emitting_thread: int | None = None  # the thread that runs `on_event`
        self._batch_size = options.batch_size
        self._seconds_per_crop = 0.0  # inference time in the latest batch
        self._recognizes = True  # False after the Recognizer failed
        self._timestamps: dict[str, float] = {}  # of the latest frame of each stream
        self._before = 0.0  # total seconds of earlier streams, which all ended before the current ones started
        self._newest = 0.0  # `_before` plus the greatest timestamp of a current stream
        self._closed = False
        self.recognized = self.crops = 0

    @property
    def unrecognized(self) -> int:
        """Number of discarded people: they were tracked, but no crop of them could be recognised."""
        return self._fusion.unrecognized

    def update(self, frame: Frame) -> tuple[list[TrackedBox], dict[int, Person]]:
        """Process the next frame of a stream, and recognise one batch of crops if any are due.

        With `VideoOptions.blur`, the crops of the people are blurred. The frame is the caller's and is not: `follow`
        with `wait=False` returns the blurred one.

        Args:
            frame: The frame. Timestamps of a stream must not decrease.

        Returns:
            The boxes of tracked people in the frame, and the stream's people who have attributes, by track ID.

        Raises:
            ImageError: The image is not uint8 RGB (h, w, 3).
            VideoError: The timestamp is below the previous one, or the Follower is closed.
            DetectorError: The detector returned an invalid box.
            Exception: Any exception of the detector, the tracker, the Recognizer or `on_event`.
        """
        boxes, _ = self.track(frame)
        self.recognize()
        with self._state_lock:
            return boxes, self._fusion.people(frame.stream)

    def track(self, frame: Frame) -> tuple[list[TrackedBox], dict[int, Person]]:
        """Detect and track people in a frame as `update` does, but recognise no crops.

        Args:
            frame: The frame. Timestamps of a stream must not decrease.

        Returns:
            The boxes of tracked people in the frame, and the stream's people who have attributes, by track ID.

        Raises:
            ImageError: As `update`.
            VideoError: As `update`.
            DetectorError: As `update`.
        """
        self._find(frame)
        *_, (_, boxes, people) = self._decided(frame.stream, wait=False)
        return boxes, people

    def follow(self, frame: Frame, *, wait: bool = True) -> Iterator[Followed]:
        """Process the next frame of a recording as `track` does, but let it wait until its people are known.

        The built-in detector needs some frames to tell a person from another change of the picture. `track` emits a
        person from then on, `follow` from the first sighting. A frame waits for 2 s of the stream at most, and for less
        if the waiting frames exceed 128 MB.

        Args:
            frame: The frame. Timestamps of a stream must not decrease.
            wait: Whether frames may wait. Without, the iterator has this frame only, as of live streams. Default: True.

        Returns:
            An iterator of the frames that wait no more, in order. Each is a tuple of the frame, the boxes of tracked
            people in it, and the stream's people who have attributes, by track ID. With `VideoOptions.blur`, the frame
            is blurred.

        Raises:
            ImageError: As `update`.
            VideoError: As `update`.
            DetectorError: As `update`.
        """
        self._find(frame)
        return self._decided(frame.stream, wait=wait)

    def rest(self, stream: str) -> Iterator[Followed]:
        """Process the frames of a stream that still wait after `follow`. Call it before `finish`, which drops them.

        Args:
            stream: Name of the stream.

        Returns:
            As `follow`.
        """
        return self._decided(stream, wait=False)

    def recognize(self, now: float | None = None, *, within: float | None = None) -> bool:
        """Recognise one batch of the most informative crops.

        Args:
            now: Time in seconds of a clock that does not go back, to count crops per second. Default: the frames'
                timestamps.
            within: Seconds that the batch may take. If the prediction is longer, the batch is smaller. Default: no
                limit.

        Returns:
            Whether a crop was recognised.

        Raises:
            VideoError: `on_event` called it.
            Exception: Any exception of the Recognizer or `on_event`.
        """
        self._refuse("recognize", closed=False)  # another thread may have closed it just now
        with self._batch_lock:
            with self._state_lock:
                batch = self._selector.take(self._batch_limit(within), self._newest if now is None else now)
                drafts = self._fusion.drafts(batch)
            if not batch:
                return False
            start = time.monotonic()
            try:
                with self._stage("recognize"):
                    predictions = self._recognizer.predict([candidate.crop for candidate in batch], drafts=drafts)
            except BaseException:
                self._recognizes = False
                raise
            self._recognizes = True
            self._seconds_per_crop = (time.monotonic() - start) / len(batch)
            self.crops += len(batch)
            with self._stage("fuse"), self._state_lock:
                batch = [candidate.to_show() for candidate in batch]  # nothing needs the recognised pixels any more
                events = [self._fusion.add(*answer) for answer in zip(batch, predictions, strict=True)]
                self._emit([event for some in events for event in some])
            for candidate, prediction, some in zip(batch, predictions, events, strict=True):
                first = any(event.kind == "appeared" for event in some)
                for call in self._on_prediction:
                    call(candidate, prediction, first)
            return True

    def finish(self, stream: str) -> None:
        """End a stream: recognise the crops that are due, then end all its tracks, even if recognition raises.

        Args:
            stream: Name of the stream.
        """
        self._refuse("finish", closed=False)
        if (finder := self._finders.pop(stream, None)) is not None:
            self._last_ids[stream] = finder.last_id
        self._veils.pop(stream, None)
        if isinstance(self._detector, ForgetsStreams):
            self._detector.forget(stream)
        self._timestamps.pop(stream, None)
        if not self._timestamps:
            self._before = self._newest
        # Wait for the current batch, so that its events precede the end of the tracks.
        with self._batch_lock, contextlib.ExitStack() as ending:
            ending.callback(self._end, stream)
            with self._state_lock:
                self._selector.finish(stream)
            while self._recognizes and self.recognize():
                pass

    def set_thresholds(self, stream: str, thresholds: Thresholds | None) -> None:
        """Set the thresholds of a stream's states, in place of the Recognizer's. They hold for new people.

        Args:
            stream: Name of the stream.
            thresholds: The thresholds, or None for those of the Recognizer.
        """
        with self._state_lock:
            self._fusion.set_thresholds(stream, thresholds)

    def close(self) -> None:
        """Finish all streams. Frames are refused afterwards. Safe to call twice."""
        self._refuse("close", closed=False)
        self._closed = True
        with contextlib.ExitStack() as ending:
            for stream in reversed(self._finders):
                ending.callback(self.finish, stream)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _find(self, frame: Frame) -> None:
        """Detect and track everyone in the next frame of a stream."""
        self._refuse("track")
        self._check(frame)
        if frame.stream not in self._finders:
            after = self._last_ids.get(frame.stream, 0)
            self._finders[frame.stream] = Finder(self._detector, self._new_tracker(), after=after)
            if self._blur is not None:
                self._veils[frame.stream] = Veil(self._blur)
        finder = self._finders[frame.stream]
        if finder.size not in (None, frame.image.shape[:2]):
            finder.start_over(self._new_tracker())
        with self._stage("detect"):
            found = finder.detect(frame)
        with self._stage("track"):
            finder.track(frame, found)
        if (veil := self._veils.get(frame.stream)) is not None:
            ready = not isinstance(self._detector, Readiness) or self._detector.ready(frame.stream)
            veil.see(frame, found, ready=ready)
        self._timestamps[frame.stream] = frame.timestamp

    def _decided(self, stream: str, *, wait: bool) -> Iterator[Followed]:
        """Yield the frames whose people are known, after they were offered for recognition."""
        finder = self._finders.get(stream)
        for frame, boxes in finder.decided(wait=wait) if finder is not None else ():
            self._newest = max(self._newest, self._before + frame.timestamp)
            shown = self._shown(frame, boxes)
            with self._stage("select"), self._state_lock:
                ended = self._fusion.observe(frame, boxes)
                people = self._fusion.people(stream)
                self._selector.offer(frame, boxes, people, None if shown is frame else shown.image)
                self._emit(ended)
            yield shown, boxes, people

    def _shown(self, frame: Frame, boxes: Sequence[TrackedBox]) -> Frame:
        """Return the frame with the pixels that may be shown."""
        veil = self._veils.get(frame.stream)
        if veil is None:
            return frame
        with self._stage("blur"):
            image = veil.shown(frame, [one.box for one in boxes])
        return frame if image is frame.image else dataclasses.replace(frame, image=image)

    def _end(self, stream: str) -> None:
        with self._state_lock:
            self._selector.forget(stream)
            self._emit(self._fusion.finish(stream))

    def _refuse(self, method: str, *, closed: bool = True) -> None:
        """Raise VideoError if `on_event` makes the call, which would wait for its own thread, or after `close`."""
        if self._emitting_thread == threading.get_ident():
            raise VideoError(f"on_event must not call {method}; keep the event, and call {method} afterwards")
        if closed and self._closed:
            raise VideoError(f"{method} must be called before close, got a closed Follower; create another")

    def _check(self, frame: Frame) -> None:
        """Raise VideoError or ImageError if the frame cannot be the next one of its stream."""
        name = f"frame {frame.index} of {frame.stream}"
        check_crop(frame.image, name)
        if not math.isfinite(frame.timestamp):
            raise VideoError(f"timestamp of {name} must be a finite number of seconds, got {frame.timestamp}")
        if frame.timestamp < (last := self._timestamps.get(frame.stream, frame.timestamp)):
            raise VideoError(
                f"timestamp of {name} must be {last:g} or more, got {frame.timestamp:g}; keep frames in order, or call "
                f"finish({frame.stream!r}) before the stream starts over"
            )

    def _batch_limit(self, within: float | None) -> int:
        """Return the maximum number of crops of the next batch."""
        if within is None or self._seconds_per_crop * self._batch_size <= within:
            return self._batch_size
        return max(1, int(within / self._seconds_per_crop))

    def _emit(self, events: Iterable[Event]) -> None:
        failed: Exception | None = None
        self._emitting_thread = threading.get_ident()  # only the holder of `_state_lock` sets it
        try:
            for event in events:
                self.recognized += event.kind == "appeared"
                try:
                    self._on_event(event)
                except Exception as error:
                    failed = failed or error
        finally:
            self._emitting_thread = None
        if failed:
            raise failed
