"""The whole pipeline in one call, as an iterator of events."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

from seqpar_deploy.errors import VideoError
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.options import VideoOptions
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.queues import BoundedQueue
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.fan_out import one_line
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sources.hardware import Hwaccel
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import check_fps, expand_sources
from seqpar_deploy.video.sources.state import RtspTransport, SourceOptions
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Sink, Tracker

_EVENTS = 64  # maximum in the queue to the caller
_AT_EXIT = 30.0  # seconds that the sinks have to finish when the program ends

_log = logging.getLogger(__name__)

Place = str | os.PathLike[str] | int  # a camera's number


def watch(
    sources: Place | Iterable[Place],
    recognizer: AnyRecognizer,
    *,
    options: VideoOptions = VideoOptions(),
    detector: Detector | None = None,
    tracker: Callable[[], Tracker] = ByteTracker,
    sinks: Sequence[Sink] = (),
    metrics: Metrics | None = None,
    health: Health | None = None,
    live: bool | None = None,
    fps: float | None = None,
    rtsp_transport: RtspTransport = "auto",
    hwaccel: Hwaccel = "none",
    max_fps: float | None = None,
    adaptive_fps: bool = False,
) -> Watch:
    """Watch videos, cameras or streams, and iterate over the events of the people in them.

    The pipeline runs in background threads. It reconnects live sources without limit, unless the same fault of decoding
    recurs 20 times in a row. If the caller is slow, files wait and live sources drop frames, never events. Lost sources
    and failing sinks are logged.

    Args:
        sources: One or more sources, all recorded or all live. Recorded: files, folders, globs, and sequences of
            pictures such as frames/%06d.png. Live: camera numbers, /dev/videoN, and URLs, for example rtsp://. An
            http:// URL may be either; a URL of snapshots is polled.
        recognizer: Classifies the crops. The caller closes it.
        options: Options of crop selection, fusion and track lifetime. Default: `VideoOptions()`.
        detector: Detects people. The caller closes it. Default: the built-in detector, for fixed cameras.
        tracker: Function that returns a tracker for a stream. Default: `ByteTracker`.
        sinks: Outputs that receive frames and events too. They are closed at the end of the run. Default: none.
        metrics: Prometheus metrics to update, for example of a `WebServer`. Default: none.
        health: Health checks to update, for example of a `WebServer`. Default: none.
        live: Whether the sources are live streams, which are reconnected, or recordings, which end. Default: decided by
            the address, and by the answer of an HTTP server.
        fps: Frames per second of sequences of pictures (default: 25) and requests per second of snapshot URLs
            (default: 5).
        rtsp_transport: Transport of RTSP: `tcp`, `udp`, or `auto`, which tries TCP first, then UDP if TCP is refused.
            Default: `auto`.
        hwaccel: Device that decodes: `cuda`, `vaapi`, `auto` for the first that works, or `none`. The CPU decodes what
            it cannot. Default: `none`.
        max_fps: Frames to analyse per second of each source. The others are decoded only. Default: all.
        adaptive_fps: Whether live sources leave out frames evenly while the pipeline is too slow, where a full queue
            would drop them at random. Default: no.

    Returns:
        An iterator of events that is also a context manager.

    Raises:
        VideoError: A name matches no source, or max_fps is not above 0. The iterator raises it at its end if a source
            could not be read.
        BackendUnavailableError: PyAV, OpenCV or `trackers` is not installed.

    Example:
        with watch("rtsp://camera/1", recognizer) as events:
            for event in events:
                print(event.kind, event.person.track_id, event.person.labels)
    """
    places = [sources] if isinstance(sources, (str, os.PathLike, int)) else sources
    specs = expand_sources([str(place) for place in places], live=live, fps=fps)
    check_fps(specs, fps)
    source_options = SourceOptions(
        rtsp_transport=rtsp_transport, hwaccel=hwaccel, max_fps=max_fps, adaptive_fps=adaptive_fps
    )
    events = BoundedQueue[Event](_EVENTS)
    pipeline = Pipeline(
        [Source(spec, options=source_options) for spec in specs],
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
    """Iterator of events that `watch` returns. The pipeline runs in background threads.

    The run ends when all sources have ended, on `close` from any thread, at the end of the `with` block, when the last
    reference is dropped, and when the program ends. Frames that were already read still reach the sinks.

    Example:
        events = watch("street.mp4", recognizer)
        for event in events:
            print(event.kind, event.person.labels)
        print(events.summary.people)
    """

    def __init__(self, pipeline: Pipeline, events: BoundedQueue[Event]) -> None:
        self._events = events
        self._ended: list[Summary] = []  # set by the thread, which must not hold a reference to this object
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
        """End the run and wait until the sinks are closed. Safe to call twice.

        If a sink or the detector calls it, it does not wait, because it would wait for its own thread.
        """
        self._stop()
        if self._runs_in(threading.current_thread()):
            return
        self._thread.join()

    @property
    def summary(self) -> Summary:
        """Result of the run, available after the iterator has ended or was closed.

        Raises:
            VideoError: The run has not ended, or it failed.
        """
        if self._ended:
            return self._ended[0]
        if self._thread.is_alive():
            raise VideoError("summary must be read after the run, got an active run; iterate to the end, or call close")
        raise VideoError("summary must be read after a successful run, got no summary; see the error of the run")

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _run(pipeline: Pipeline, events: BoundedQueue[Event], ended: list[Summary]) -> None:
    try:
        ended.append(pipeline.run())
    except BaseException as error:
        if not events.finish(error):  # the caller no longer reads events
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
    """End all runs when the program ends. Their threads are daemons, which would stop in the middle of a file."""
    running = {thread: run for thread, run in _RUNNING.copy().items() if thread.is_alive()}  # dead in a forked child
    for run in running.values():
        _stop(*run)
    for thread in running:
        thread.join(_AT_EXIT)
