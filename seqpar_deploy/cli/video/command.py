"""`seqpar video`: attributes of the people in videos, cameras and streams."""

from __future__ import annotations

import contextlib
import functools
import logging
import time

import typer

from seqpar_deploy.cli import recognizers
from seqpar_deploy.cli.console import INTERRUPTED, print_error, raise_interruption, stage
from seqpar_deploy.cli.parameters import takes
from seqpar_deploy.cli.video import outlets
from seqpar_deploy.cli.video.cameras import CameraOpener, ConfigRun
from seqpar_deploy.cli.video.config import DEFAULT, Config, read_config, write_example
from seqpar_deploy.cli.video.dry_run import dry_run
from seqpar_deploy.cli.video.outputs import Outputs, tell_camera
from seqpar_deploy.cli.video.recognizer import open_monitor, open_recognizer
from seqpar_deploy.cli.video.request import VideoRequest, check_apart, check_options
from seqpar_deploy.cli.video.summary import log_drift, log_summary, raise_failures
from seqpar_deploy.errors import ReaderGoneError, ServerUnavailableError
from seqpar_deploy.files import check_writable
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.machine import limit_malloc_arenas, usable_cores
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.serving import RemoteRecognizer
from seqpar_deploy.video.detect.opencv import limit_threads
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.detect.per_stream import StreamDetectors
from seqpar_deploy.video.monitor import Monitor
from seqpar_deploy.video.options import VideoOptions
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.annotated import AnnotatedSink, files_for
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, check_fps, expand_sources
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.uncertain_crops import UncertainCrops
from seqpar_deploy.video.zones.masked import MaskedTracker
from seqpar_deploy.video.zones.watcher import ZoneWatcher

_FILE_SINKS = (AnnotatedSink, ReportSink, UncertainCrops)

_log = logging.getLogger(__name__)


@takes(VideoRequest)
def video(request: VideoRequest) -> None:
    """Track people in videos and streams, and emit their attributes.

    An event is emitted when a person's attributes are first known, when they change, and when the person leaves. If
    seqpar tune has run on this machine, its result is used, unless --backend or --threads is given.

    With --server, a server recognises the crops. While it is away, the bundle answers, or without one the crops wait:
    at most one per person, and live sources wait without limit.

    With --dry-run, print a line per source, detector, output, server and bundle that is ready, and one per problem.
    Nothing is written, and the exit code is 2 if there is a problem.

    Ctrl-C ends the run: frames already read are processed, files are completed, and the exit code is 130. The exit
    code is 2 if a source could not be read or an output is incomplete.

    Examples:
      seqpar video street.mp4 --bundle bundles/peta --report people.html
      seqpar video rtsp://camera/stream --bundle bundles/peta --serve 8080
      seqpar video day.mp4 --bundle bundles/peta --monitor --keep-uncertain 200
      seqpar video 0 --bundle bundles/peta --keep-people people --retain 7d
      seqpar video rtsp://camera/1 --server http://gpu:8000 --bundle bundles/peta
    """
    if request.init:
        write_example(request.config or DEFAULT)
        _log.info("wrote %s", request.config or DEFAULT)
        return
    config = read_config(request.config) if request.config else None
    request = config.over(request) if config else request
    if request.dry_run:
        dry_run(request.with_secrets(), config)
        return
    check_options(request)
    outlets.check_outlets(request)
    _run(request.with_secrets(), config)


def _run(request: VideoRequest, config: Config | None) -> None:
    limit_malloc_arenas()
    outlets.check_places(request)
    threads = request.threads or usable_cores()
    opener = CameraOpener(request=request, threads=threads)
    specs = _expand(request, config, opener)
    live = specs[0].live
    videos = files_for(request.annotate, [spec.name for spec in specs]) if request.annotate else {}
    check_apart(request, specs, list(videos.values()))
    check_writable(*videos.values(), request.report)
    metrics, health = Metrics(), Health()
    with contextlib.ExitStack() as stack:
        recognizer = open_recognizer(request, live=live, metrics=metrics, health=health)
        stack.callback(recognizer.close)
        limit_threads(threads)
        detector = open_detector(request.detector, backend=request.backend, options=request.onnx_options(threads))
        stack.callback(detector.close)
        cameras = ConfigRun(config, opener, live=live) if config and config.cameras else None
        if cameras is None:
            sources = [Source(spec, options=request.source_options) for spec in specs]
        else:
            detector = detectors = StreamDetectors(detector, health=health)
            stack.callback(detectors.close)
            sources = cameras.sources(detectors, recognizer)
        monitor = open_monitor(recognizer, metrics) if request.monitor else None
        zones: ZoneWatcher
        outputs = Outputs(
            request=request,
            specs=specs,
            videos=videos,
            recognizer=recognizer,
            metrics=metrics,
            health=health,
            monitor=monitor,
            posts=cameras.posts() if cameras else {},
            outlines=lambda stream: zones.outlines(stream),
        ).open(stack)
        sinks = Sinks(outputs, metrics=metrics, health=health, none_left=lambda: pipeline.request_stop())
        zones = ZoneWatcher(sinks, metrics=metrics, clock=time.time if live else None)
        pipeline = Pipeline(
            sources,
            detector,
            recognizer,
            zones if cameras else sinks,
            tracker=(lambda: MaskedTracker(ByteTracker(), zones.masks)) if cameras else ByteTracker,
            options=VideoOptions(selection=request.selection, blur=request.blur),
            on_prediction=[part for part in (monitor, *outputs) if isinstance(part, (Monitor, UncertainCrops))],
            on_last=monitor.finish if monitor else lambda: None,
            metrics=metrics,
            health=health,
            on_progress=_open_progress(specs, stack),
            open_ended=cameras is not None and live,
        )
        if cameras is not None:
            cameras.attach(pipeline, zones, health, stack, changed=functools.partial(tell_camera, outputs))
        summary, interrupted = _run_until_signal(pipeline, recognizer)
    nobody_reads = sinks.all_lost and all(isinstance(error, ReaderGoneError) for error in sinks.all_lost)
    if not nobody_reads:
        wrote = [sink.path for sink in outputs if isinstance(sink, _FILE_SINKS) and sink.wrote]
        log_summary(summary, wrote, profile=request.profile)
        if monitor:
            log_drift(monitor.report())
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if not nobody_reads:
        raise_failures(summary, sinks, sources=len(specs), outputs=len(outputs))


def _expand(request: VideoRequest, config: Config | None, opener: CameraOpener) -> list[SourceSpec]:
    """Return the sources of the command line, or of the config file."""
    if config is None or not config.cameras:
        specs = expand_sources(request.sources or [], live=request.live, fps=request.fps)
        check_fps(specs, request.fps)
        return specs
    config.check_sources(request)
    return opener.specs(config.cameras)


def _run_until_signal(pipeline: Pipeline, recognizer: AnyRecognizer) -> tuple[Summary, bool]:
    """Run the pipeline, and return its result and whether a signal ended it."""

    def request_stop() -> None:
        pipeline.request_stop()
        if isinstance(remote := recognizers.unlimited(recognizer), RemoteRecognizer):
            remote.give_up()

    raise_interruption()  # if Ctrl-C came while runtimes were imported
    with stop_on_signal(request_stop) as interrupted:
        try:
            return pipeline.run(), bool(interrupted)
        except ServerUnavailableError as error:
            if not interrupted:
                raise
            print_error(error)  # the crops that waited for the server are lost
            raise typer.Exit(INTERRUPTED) from None


def _open_progress(specs: list[SourceSpec], stack: contextlib.ExitStack) -> OnProgress | None:
    """Show progress through files. Live sources have no end, so they have no progress."""
    if specs[0].live:
        return None
    return stack.enter_context(stage(specs[0].shown if len(specs) == 1 else f"{len(specs)} files"))
