"""The whole pipeline in one call: people's attributes in videos and streams, as an iterator of events."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

from seqpar_deploy.errors import VideoError
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.attribute_fusion import FusionOptions
from seqpar_deploy.video.crop_selection import ChooserOptions
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.queues import BoundedQueue
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.fan_out import one_line, say
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.source import Source
from seqpar_deploy.video.source_spec import expand_sources
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Sink, Tracker

_EVENTS = 64  # waiting to be asked for
_AT_EXIT = 30.0  # seconds in which the sinks have to finish when the program ends

Place = str | os.PathLike[str] | int  # a camera's number


def watch(
    sources: Place | Iterable[Place],
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
    places = [sources] if isinstance(sources, (str, os.PathLike, int)) else sources
    specs = expand_sources([str(place) for place in places])
    events = BoundedQueue[Event](_EVENTS)
    pipeline = Pipeline(
        [Source(spec, report=report) for spec in specs],
        detector or MotionDetector(),
        recognizer,
        Sinks(sinks, metrics=metrics, health=health, report=report),
        tracker=tracker,
        chooser=chooser,
        fusion=fusion,
        hand_over=events.put,
        metrics=metrics,
        health=health,
        report=report,
    )
    return Watch(pipeline, events, report)


class Watch(Iterator[Event]):
    """Events as they come, from a pipeline that runs in threads of its own. Made by `watch`.

    Closing it, by `close` from any thread, as a context manager, or by letting go of it, ends the run, and so does the
    end of the program: what was read until then still reaches the sinks. `summary` is what the run came to, once the
    iterator has ended.
    """

    def __init__(self, pipeline: Pipeline, events: BoundedQueue[Event], report: Callable[[str], None] = say) -> None:
        self.summary: Summary | None = None
        self._events = events
        self._ended: list[Summary] = []  # by the thread, which must not hold on to this
        run = pipeline, events, report
        self._thread = threading.Thread(target=_run, args=(*run, self._ended), name="watch", daemon=True)
        self._runs_in = pipeline.runs_in
        self._stop = weakref.finalize(self, _stop, *run)
        self._stop.atexit = False
        _RUNNING[self._thread] = run
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
        """End the run, and wait until the sinks are finished; not where a sink or detector calls it, which would wait
        for itself. Safe to call twice."""
        self._stop()
        if self._runs_in(threading.current_thread()):
            return
        self._thread.join()
        self.summary = self._ended[0] if self._ended else None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _run(pipeline: Pipeline, events: BoundedQueue[Event], report: Callable[[str], None], ended: list[Summary]) -> None:
    try:
        ended.append(pipeline.run())
    except BaseException as error:
        if not events.finish(error):  # nobody asks for events any more
            report(f"the run broke: {one_line(error)}")
    else:
        events.finish()
    finally:
        _RUNNING.pop(threading.current_thread(), None)


def _stop(pipeline: Pipeline, events: BoundedQueue[Event], report: Callable[[str], None]) -> None:
    if error := events.close():
        report(f"the run broke: {one_line(error)}")
    pipeline.stop()


_RUNNING: dict[threading.Thread, tuple[Pipeline, BoundedQueue[Event], Callable[[str], None]]] = {}


@atexit.register
def _finish_all() -> None:
    """The threads are daemons, and would be cut off in the middle of a file."""
    running = {thread: run for thread, run in _RUNNING.copy().items() if thread.is_alive()}  # not so in a forked child
    for run in running.values():
        _stop(*run)
    for thread in running:
        thread.join(_AT_EXIT)
