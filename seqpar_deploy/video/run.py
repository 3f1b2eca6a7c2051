"""The whole pipeline in one call: events of the people in videos and streams, as an iterator."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

from seqpar_deploy.errors import VideoError
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.options import VideoOptions
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.queues import BoundedQueue
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.fan_out import one_line
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.source import Source
from seqpar_deploy.video.source_spec import expand_sources
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Sink, Tracker

_EVENTS = 64  # waiting to be taken
_AT_EXIT = 30.0  # seconds in which the sinks have to finish when the program ends

_log = logging.getLogger(__name__)

Place = str | os.PathLike[str] | int  # a camera's number


def watch(
    sources: Place | Iterable[Place],
    recognizer: Recognizer,
    *,
    options: VideoOptions = VideoOptions(),
    detector: Detector | None = None,
    tracker: Callable[[], Tracker] = ByteTracker,
    sinks: Sequence[Sink] = (),
    metrics: Metrics | None = None,
    health: Health | None = None,
) -> Watch:
    """Watch videos, cameras or streams, and iterate over the events of the people in them.

    Live sources are reconnected without limit. If the caller is slow, files wait, and live sources drop frames, never
    events. Lost sources and failing sinks are logged.

    Args:
        sources: Files, folders and globs; or live sources: camera numbers, /dev/videoN, rtsp://, http:// and the like.
        recognizer: Recognises the crops. The caller closes it.
        options: Selection, fusion and lifetime.
        detector: Finds people; the caller closes it. Default: the built-in one, for fixed cameras.
        tracker: Called to make a tracker for each stream. Default: `ByteTracker`.
        sinks: Receive frames and events too. They are closed at the end of the run.
        metrics: Kept up to date, for example for a `WebServer`.
        health: Kept up to date, for example for a `WebServer`.

    Returns:
        An iterator of events, also a context manager.

    Raises:
        VideoError: A name matches no source. The iterator raises it at its end if a source could not be read.

    Example:
        for event in watch("rtsp://camera/1", recognizer):
            print(event.kind, event.person.track_id, event.person.labels)
    """
    places = [sources] if isinstance(sources, (str, os.PathLike, int)) else sources
    specs = expand_sources([str(place) for place in places])
    events = BoundedQueue[Event](_EVENTS)
    pipeline = Pipeline(
        [Source(spec) for spec in specs],
        detector or MotionDetector(),
        recognizer,
        Sinks(sinks, metrics=metrics, health=health),
        options=options,
        tracker=tracker,
        hand_over=events.put,
        metrics=metrics,
        health=health,
    )
    return Watch(pipeline, events)


class Watch(Iterator[Event]):
    """Events as they come, from a pipeline that runs in threads of its own. Made by `watch`.

    `close` from any thread, leaving it as a context manager, dropping the last reference to it, and the end of the
    program all end the run. Frames read until then still reach the sinks.
    """

    def __init__(self, pipeline: Pipeline, events: BoundedQueue[Event]) -> None:
        self._events = events
        self._ended: list[Summary] = []  # set by the thread, which must not refer to this object
        run = pipeline, events
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
        failed = self._ended[0].failed if self._ended else {}
        if failed and self._stop.detach():
            raise VideoError("; ".join(f"{name}: {why}" for name, why in failed.items()))
        raise StopIteration

    def close(self) -> None:
        """End the run and wait until the sinks are closed. Called by a sink or detector it does not wait, as that would
        be for itself. Safe to call twice."""
        self._stop()
        if self._runs_in(threading.current_thread()):
            return
        self._thread.join()

    @property
    def summary(self) -> Summary:
        """Result of the run, once the iterator has ended or was closed. Raises VideoError before, or if it failed."""
        if self._ended:
            return self._ended[0]
        if self._thread.is_alive():
            raise VideoError("summary must be read after the run, got a run that goes on; exhaust or close it first")
        raise VideoError("the run failed and has no summary; see the error it raised or logged")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _run(pipeline: Pipeline, events: BoundedQueue[Event], ended: list[Summary]) -> None:
    try:
        ended.append(pipeline.run())
    except BaseException as error:
        if not events.finish(error):  # nobody takes events any more
            _log.error("the run failed: %s", one_line(error))
    else:
        events.finish()
    finally:
        _RUNNING.pop(threading.current_thread(), None)


def _stop(pipeline: Pipeline, events: BoundedQueue[Event]) -> None:
    if error := events.close():
        _log.error("the run failed: %s", one_line(error))
    pipeline.stop()


_RUNNING: dict[threading.Thread, tuple[Pipeline, BoundedQueue[Event]]] = {}


@atexit.register
def _finish_all() -> None:
    """End runs at the end of the program: their threads are daemons, and would be cut off in the middle of a file."""
    running = {thread: run for thread, run in _RUNNING.copy().items() if thread.is_alive()}  # not so in a forked child
    for run in running.values():
        _stop(*run)
    for thread in running:
        thread.join(_AT_EXIT)
