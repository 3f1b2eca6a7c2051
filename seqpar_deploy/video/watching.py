"""The whole pipeline in one call: people's attributes in videos and streams, as an iterator of events."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

from seqpar_deploy.errors import VideoError
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.choose import ChooserOptions
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.fuse import FusionOptions
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.places import expand_sources
from seqpar_deploy.video.queues import BoundedQueue
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.fan_out import say
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.source import Source
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Frame, Person, Sink, TrackedBox, Tracker

_EVENTS = 64  # waiting to be asked for

Place = str | os.PathLike[str]


def watch(
    sources: Place | Sequence[Place],
    recognizer: Recognizer,
    *,
    detector: Detector | None = None,
    tracker: Callable[[], Tracker] = ByteTracker,
    chooser: ChooserOptions | None = None,
    fusion: FusionOptions | None = None,
    sinks: Sequence[Sink] = (),
    metrics: Metrics | None = None,
    health: Health | None = None,
    report: Callable[[str], None] = say,
) -> Watch:
    """The events of the people in videos, cameras and streams, as `seqpar video` tells them.

    `sources` are files, folders and globs, or else /dev/videoN, rtsp:// or http:// and the like. Live ones are
    reconnected for ever, and lose frames, never events, to a caller that is slow. `detector` is the built-in one
    unless given, and the caller closes it; `tracker` makes a tracker for each stream. `sinks` are told too, and closed
    at the end. `metrics` and `health` are kept up to date, for a `WebServer` say. `report` is given a line when a
    source or sink is lost or back; it goes to standard error unless given.

    Raises VideoError where a source names nothing, and the iterator raises it at its end where one could not be read.

    >>> for event in watch("rtsp://camera/1", recognizer):
    ...     print(event.kind, event.person.track, event.person.labels)
    """
    places = [sources] if isinstance(sources, (str, os.PathLike)) else sources
    specs = expand_sources([os.fspath(place) for place in places])
    events = BoundedQueue[Event](_EVENTS)
    pipeline = Pipeline(
        [Source(spec, report=report) for spec in specs],
        detector or MotionDetector(),
        recognizer,
        Sinks([*sinks, _Handover(events)], metrics=metrics, health=health, report=report),
        tracker=tracker,
        chooser=chooser,
        fusion=fusion,
        metrics=metrics,
        health=health,
        report=report,
    )
    return Watch(pipeline, events)


class Watch(Iterator[Event]):
    """Events as they come, from a pipeline that runs in threads of its own. Made by `watch`.

    Closing it, by `close` from any thread, as a context manager, or by letting go of it, ends the run: what was read
    until then still reaches the sinks. `summary` is what the run came to, once the iterator has ended.
    """

    def __init__(self, pipeline: Pipeline, events: BoundedQueue[Event]) -> None:
        self.summary: Summary | None = None
        self._events = events
        self._ended: list[Summary] = []  # by the thread, which must not hold on to this
        self._thread = threading.Thread(target=_run, args=(pipeline, events, self._ended), name="watch", daemon=True)
        self._stop = weakref.finalize(self, _stop, pipeline, events)
        self._thread.start()

    def __next__(self) -> Event:
        if taken := self._events.take():
            return taken[0]
        self._thread.join()
        self.summary = self._ended[0] if self._ended else None
        failed = self.summary.failed if self.summary else {}
        if failed and self._stop.detach():
            raise VideoError("; ".join(f"{name}: {why}" for name, why in failed.items()))
        raise StopIteration

    def close(self) -> None:
        """End the run, and wait until the sinks are finished. Safe to call twice."""
        self._stop()
        self._thread.join()
        self.summary = self._ended[0] if self._ended else None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _run(pipeline: Pipeline, events: BoundedQueue[Event], ended: list[Summary]) -> None:
    try:
        ended.append(pipeline.run())
    except BaseException as error:
        events.finish(error)
    else:
        events.finish()


def _stop(pipeline: Pipeline, events: BoundedQueue[Event]) -> None:
    events.close()
    pipeline.stop()


class _Handover:
    """A sink that hands events over to whoever asks for them."""

    name = "caller"

    def __init__(self, events: BoundedQueue[Event]) -> None:
        self._events = events

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """Frames are not handed over."""

    def event(self, event: Event) -> None:
        self._events.put(event)

    def close(self) -> None:
        """The end comes after the other sinks have closed."""
