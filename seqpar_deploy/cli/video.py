"""`seqpar video`: attributes of the people in videos, cameras and streams."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import typer

from seqpar_deploy.calibration.drift import DriftMonitor, DriftReport
from seqpar_deploy.cli import recognizers
from seqpar_deploy.cli import video_options as given
from seqpar_deploy.cli.console import INTERRUPTED, print_error, raise_interruption, stage
from seqpar_deploy.cli.dry_run import DryRun
from seqpar_deploy.cli.video_request import VideoRequest, check_apart, check_options
from seqpar_deploy.errors import ReaderGoneError, ServerUnavailableError, SinkError, VideoError
from seqpar_deploy.files import check_writable
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.machine import usable_cores
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.serving import RemoteRecognizer
from seqpar_deploy.video.detect.opencv import limit_threads
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.monitor import Monitor
from seqpar_deploy.video.options import VideoOptions
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.annotated import AnnotatedSink, files_for
from seqpar_deploy.video.sinks.jsonl import JsonlSink
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sinks.mqtt_broker import read_broker
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.server import WebServer, metrics_routes
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, check_fps, expand_sources
from seqpar_deploy.video.sources.state import SourceOptions
from seqpar_deploy.video.types import Sink
from seqpar_deploy.video.uncertain_crops import UncertainCrops

_FILE_SINKS = (AnnotatedSink, ReportSink, UncertainCrops)

_log = logging.getLogger(__name__)


def video(
    sources: given.Sources,
    bundle: recognizers.Bundle = None,
    server: recognizers.Server = None,
    server_model: recognizers.ServerModel = None,
    server_token: recognizers.ServerToken = None,
    server_ca: recognizers.ServerCa = None,
    server_timeout: recognizers.ServerTimeout = None,
    backend: given.Backend = "auto",
    live: given.Live = None,
    fps: given.Fps = None,
    rtsp_transport: given.Transport = "auto",
    secrets: given.Secrets = None,
    detector: given.Detector = "motion",
    detector_layout: given.DetectorLayout = None,
    person_class: given.PersonClass = None,
    detector_threshold: given.DetectorThreshold = None,
    detector_scaling: given.DetectorScaling = None,
    events: given.Events = None,
    annotate: given.Annotate = None,
    report: given.Report = None,
    thresholds: given.Thresholds = None,
    monitor: given.Monitor = False,
    keep_uncertain: given.KeepUncertain = None,
    uncertain_crops: given.UncertainCrops = None,
    mqtt: given.Mqtt = None,
    mqtt_ca: given.MqttCa = None,
    mqtt_cert: given.MqttCert = None,
    mqtt_key: given.MqttKey = None,
    mqtt_insecure: given.MqttInsecure = False,
    serve: given.Port = None,
    address: given.Address = None,
    base_url: given.BaseUrl = None,
    max_crops_per_second: given.MaxCropsPerSecond = 10,
    max_latency: given.MaxLatency = 0.5,
    threads: given.Threads = None,
    profile: given.Profile = False,
    dry_run: given.DryRun = False,
) -> None:
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
      seqpar video rtsp://camera/1 --server http://gpu:8000 --bundle bundles/peta
    """
    _run(VideoRequest(**locals()))  # its fields are these parameters


def _run(request: VideoRequest) -> None:
    if request.dry_run:
        _dry_run(request.with_secrets())
        return
    check_options(request)
    request = request.with_secrets()
    if request.mqtt:
        read_broker(request.mqtt, **request.tls_files)
    specs = expand_sources(request.sources, live=request.live, fps=request.fps)
    check_fps(specs, request.fps)
    files = files_for(request.annotate, [spec.name for spec in specs]) if request.annotate else {}
    check_apart(request, specs, list(files.values()))
    check_writable(*files.values(), request.report)
    metrics, health = Metrics(), Health()
    with contextlib.ExitStack() as stack:
        recognizer = _open_recognizer(request, live=specs[0].live, metrics=metrics, health=health)
        stack.callback(recognizer.close)
        threads = request.threads or usable_cores()
        limit_threads(threads)
        detector = open_detector(request.detector, backend=request.backend, options=request.onnx_options(threads))
        stack.callback(detector.close)
        source_options = SourceOptions(rtsp_transport=request.rtsp_transport)
        sources = [Source(spec, options=source_options) for spec in specs]
        monitor = _open_monitor(recognizer, metrics) if request.monitor else None
        uncertain = _open_uncertain(request, recognizer)
        opened = _open_sinks(request, files, metrics, health, stack, uncertain, monitor)
        sinks = Sinks(opened, metrics=metrics, health=health, none_left=lambda: pipeline.request_stop())
        pipeline = Pipeline(
            sources,
            detector,
            recognizer,
            sinks,
            options=VideoOptions(selection=request.selection),
            on_prediction=[part for part in (monitor, uncertain) if part is not None],
            on_last=monitor.finish if monitor else lambda: None,
            metrics=metrics,
            health=health,
            on_progress=_open_progress(specs, stack),
        )

        def request_stop() -> None:
            pipeline.request_stop()
            if isinstance(recognizer, RemoteRecognizer):
                recognizer.give_up()

        raise_interruption()  # if Ctrl-C came while runtimes were imported
        with stop_on_signal(request_stop) as interrupted:
            try:
                summary = pipeline.run()
            except ServerUnavailableError as error:
                if not interrupted:
                    raise
                print_error(error)  # the crops that waited for the server are lost
                raise typer.Exit(INTERRUPTED) from None
    nobody_reads = sinks.all_lost and all(isinstance(error, ReaderGoneError) for error in sinks.all_lost)
    if not nobody_reads:
        wrote = [sink.path for sink in opened if isinstance(sink, _FILE_SINKS) and sink.wrote]
        _log_summary(summary, wrote, profile=request.profile)
        if monitor:
            _log_drift(monitor.report())
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if not nobody_reads:
        _raise_failures(summary, sinks, sources=len(specs), outputs=len(opened))


def _open_recognizer(
    request: VideoRequest, *, live: bool = False, metrics: Metrics | None = None, health: Health | None = None
) -> AnyRecognizer:
    open_local = None if request.bundle is None else lambda: _open_bundle(request)
    return request.open(open_local, live=live, metrics=metrics, health=health)


def _open_bundle(request: VideoRequest) -> Recognizer:
    """Open the bundle. Raises VideoError if --monitor needs a calibration that it does not have."""
    assert request.bundle is not None
    recognizer = Recognizer.from_bundle(
        request.bundle, backend=request.backend, threads=request.threads, thresholds=request.thresholds
    )
    if request.monitor and recognizer.calibration is None:
        recognizer.close()
        raise VideoError(
            f"--monitor needs a calibration, got none that fits {request.bundle}; run seqpar calibrate, or omit "
            "--monitor"
        )
    return recognizer


def _open_monitor(recognizer: AnyRecognizer, metrics: Metrics) -> Monitor:
    local = recognizers.local_recognizer(recognizer)
    assert local is not None  # checked by `check_options`
    assert local.calibration is not None  # checked by `_open_bundle`
    return Monitor(DriftMonitor(local.calibration, local.label_set), metrics=metrics)


def _open_uncertain(request: VideoRequest, recognizer: AnyRecognizer) -> UncertainCrops | None:
    if request.keep_uncertain is None or request.uncertain_folder is None:
        return None
    label_set = recognizer.label_set
    return UncertainCrops(request.uncertain_folder, request.keep_uncertain, label_set, recognizer.thresholds)


def _dry_run(request: VideoRequest) -> None:
    """Check the parts of the run. Each opens as in `_run`."""

    def annotated(specs: list[SourceSpec]) -> list[Path]:
        streams = [spec.name for spec in specs] or ["stream"]
        return list(files_for(request.annotate, streams).values()) if request.annotate else []

    def outputs(specs: list[SourceSpec]) -> list[Path]:
        try:
            drawn = annotated(specs)
        except SinkError:  # reported by the check
            drawn = []
        folder = request.uncertain_folder
        folder = None if folder is None or folder.exists() else folder  # reported by the check
        return [*drawn, *filter(None, (request.report, Path(request.events) if request.events else None, folder))]

    def server() -> tuple[str, Callable[[], None]]:
        address = request.address or "127.0.0.1"
        web = WebServer({}, address=address, port=request.serve or 0, base_url=request.base_url)
        return web.url, web.close

    options = request.onnx_options(request.threads or usable_cores())
    DryRun(
        sources=request.sources,
        expand=lambda names: expand_sources(names, live=request.live, fps=request.fps),
        checks=(
            lambda _: check_options(request),
            lambda specs: check_fps(specs, request.fps),
            lambda specs: check_apart(request, specs, annotated(specs)),
        ),
        open_source=lambda spec: Source(spec, options=SourceOptions(rtsp_transport=request.rtsp_transport)),
        open_detector=None
        if request.detector == "-"
        else lambda: open_detector(request.detector, backend=request.backend, options=options),
        open_recognizer=lambda: _open_recognizer(request),
        files=outputs,
        open_broker=(
            lambda metrics, health: MqttSink(request.mqtt or "", **request.tls_files, metrics=metrics, health=health)
        )
        if request.mqtt
        else None,
        open_server=server if request.serve is not None else None,
    ).run()


def _open_sinks(
    request: VideoRequest,
    files: dict[str, Path],
    metrics: Metrics,
    health: Health,
    stack: contextlib.ExitStack,
    uncertain: UncertainCrops | None,
    monitor: Monitor | None,
) -> list[Sink]:
    """Open the outputs, files last: if another output cannot be opened, no file is created."""
    sinks: list[Sink] = [uncertain] if uncertain else []
    with contextlib.ExitStack() as unused:

        def add(sink: Sink) -> None:
            sinks.append(sink)
            unused.callback(sink.close)

        if request.mqtt:
            add(MqttSink(request.mqtt, **request.tls_files, metrics=metrics, health=health))
        if request.serve is not None:
            preview = PreviewSink()
            add(preview)
            routes = preview.routes() | metrics_routes(metrics, health)
            address = request.address or "127.0.0.1"
            web = WebServer(routes, address=address, port=request.serve, base_url=request.base_url)
            stack.callback(web.close)
            if request.base_url:
                _log.info("preview, /metrics and /healthz at %s, from %s", request.base_url, web.url)
            else:
                _log.info("preview, /metrics and /healthz at %s", web.url)
        if request.events or not (files or request.report or sinks):
            add(JsonlSink(request.events or "-"))
        for stream, file in files.items():
            add(AnnotatedSink(stream, file))
        if request.report:
            add(ReportSink(request.report, videos=files, drift=monitor.report if monitor else None))
        unused.pop_all()  # the pipeline closes them
    return sinks


def _open_progress(specs: list[SourceSpec], stack: contextlib.ExitStack) -> OnProgress | None:
    """Show progress through files. Live sources have no end, so they have no progress."""
    if specs[0].live:
        return None
    return stack.enter_context(stage(specs[0].shown if len(specs) == 1 else f"{len(specs)} files"))


def _log_summary(summary: Summary, files: list[Path], *, profile: bool) -> None:
    """Log the result of the run. Standard output is not free for it: it may carry the events."""
    frames, dropped = sum(summary.frames.values()), sum(summary.dropped.values())
    lost = f", {dropped} dropped" if dropped else ""
    unrecognized = f" and {summary.unrecognized} without a good enough crop" if summary.unrecognized else ""
    rate = frames / summary.seconds if summary.seconds else 0.0
    people = f"{summary.people} {'person' if summary.people == 1 else 'people'}{unrecognized}"
    _log.info("%s, %d crops classified, %d frames%s, %.0f per second", people, summary.crops, frames, lost, rate)
    for file in files:
        _log.info("wrote %s", file)
    if profile:
        _log.info("%-16s %8s %8s %8s", "stage", "entered", "ms each", "seconds")
        for name, (times, seconds) in summary.stages.items():
            _log.info("%-16s %8d %8.2f %8.2f", name, times, 1e3 * seconds / times, seconds)


def _log_drift(report: DriftReport) -> None:
    people = f"{report.people} {'person' if report.people == 1 else 'people'}"
    if not report.looks:
        _log.info("monitor: %s, too few to compare with the calibration set", people)
    else:
        _log.info("monitor: %s, %s", people, f"drift of {', '.join(report.drifted)}" if report.drifted else "no drift")


def _raise_failures(summary: Summary, sinks: Sinks, *, sources: int, outputs: int) -> None:
    """Raise VideoError if the run is incomplete."""
    if sinks.all_lost:
        raise VideoError("every output failed; the log above names the causes")
    if summary.failed:
        raise VideoError(
            f"{len(summary.failed)} of {sources} sources could not be read in full; the log above names the causes"
        )
    if summary.hung:
        raise VideoError("an output hung and was abandoned; it and the outputs after it may lack events")
    if sinks.incomplete:
        raise VideoError(f"{len(sinks.incomplete)} of {outputs} outputs are incomplete; the log above names the causes")
