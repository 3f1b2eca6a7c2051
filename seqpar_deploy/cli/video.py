"""`seqpar video`: attributes of the people in videos, cameras and streams."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from seqpar_deploy.backends import BackendName
from seqpar_deploy.cli import options
from seqpar_deploy.cli import video_options as given
from seqpar_deploy.cli.console import INTERRUPTED, raise_interruption, stage
from seqpar_deploy.cli.credentials import filled, read_secrets
from seqpar_deploy.cli.dry_run import DryRun
from seqpar_deploy.errors import ReaderGoneError, SinkError, VideoError
from seqpar_deploy.files import check_writable
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.machine import usable_cores
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.video.detect.opencv import limit_threads
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.options import SelectionOptions, VideoOptions
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.annotated import AnnotatedSink, files_for
from seqpar_deploy.video.sinks.jsonl import JsonlSink
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sinks.mqtt_broker import read_broker
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.server import WebServer, metrics_routes, read_base_url
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, check_fps, expand_sources
from seqpar_deploy.video.sources.state import SourceOptions
from seqpar_deploy.video.types import Sink

_log = logging.getLogger(__name__)


def video(
    sources: given.Sources,
    bundle: options.BundleOption,
    backend: given.Backend = "auto",
    live: given.Live = None,
    fps: given.Fps = None,
    rtsp_transport: given.Transport = "auto",
    secrets: given.Secrets = None,
    detector: given.Detector = "motion",
    detector_layout: given.DetectorLayout = None,
    person_class: given.PersonClass = None,
    detector_threshold: given.DetectorThreshold = None,
    events: given.Events = None,
    annotate: given.Annotate = None,
    report: given.Report = None,
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

    With --dry-run, print a line per source, detector, output and bundle that is ready, and one per problem. Nothing is
    written, and the exit code is 2 if there is a problem.

    Ctrl-C ends the run: frames already read are processed, files are completed, and the exit code is 130. The exit
    code is 2 if a source could not be read or an output is incomplete.

    Examples:
      seqpar video street.mp4 --bundle bundles/peta --report people.html
      seqpar video rtsp://camera/stream --bundle bundles/peta --serve 8080
    """
    _run(
        _Request(
            sources=sources,
            bundle=bundle,
            backend=backend,
            live=live,
            fps=fps,
            rtsp_transport=rtsp_transport,
            secrets=secrets,
            detector=detector,
            detector_layout=detector_layout,
            person_class=person_class,
            detector_threshold=detector_threshold,
            events=events,
            annotate=annotate,
            report=report,
            mqtt=mqtt,
            mqtt_ca=mqtt_ca,
            mqtt_cert=mqtt_cert,
            mqtt_key=mqtt_key,
            mqtt_insecure=mqtt_insecure,
            serve=serve,
            address=address,
            base_url=base_url,
            selection=SelectionOptions(max_crops_per_second=max_crops_per_second, max_latency=max_latency),
            threads=threads,
            profile=profile,
            dry_run=dry_run,
        )
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """The options of the command, parsed."""

    sources: list[str] = dataclasses.field(repr=False)  # they may hold passwords, as --mqtt may
    bundle: Path
    backend: BackendName
    live: bool | None
    fps: float | None
    rtsp_transport: given.RtspTransport
    secrets: Path | None
    detector: str
    detector_layout: str | None
    person_class: str | None
    detector_threshold: float | None
    events: str | None
    annotate: Path | None
    report: Path | None
    mqtt: str | None = dataclasses.field(repr=False)
    mqtt_ca: Path | None
    mqtt_cert: Path | None
    mqtt_key: Path | None
    mqtt_insecure: bool
    serve: int | None
    address: str | None
    base_url: str | None
    selection: SelectionOptions
    threads: int | None
    profile: bool
    dry_run: bool


def _run(request: _Request) -> None:
    if request.dry_run:
        _dry_run(_with_secrets(request))
        return
    _check_options(request)
    request = _with_secrets(request)
    if request.mqtt:
        read_broker(request.mqtt, **_tls_files(request))
    specs = expand_sources(request.sources, live=request.live, fps=request.fps)
    check_fps(specs, request.fps)
    files = files_for(request.annotate, [spec.name for spec in specs]) if request.annotate else {}
    _check_apart(request, specs, list(files.values()))
    check_writable(*files.values(), request.report)
    metrics, health = Metrics(), Health()
    with contextlib.ExitStack() as stack:
        recognizer = Recognizer.from_bundle(request.bundle, backend=request.backend, threads=request.threads)
        stack.callback(recognizer.close)
        threads = request.threads or usable_cores()
        limit_threads(threads)
        detector = open_detector(request.detector, backend=request.backend, options=_onnx_options(request, threads))
        stack.callback(detector.close)
        source_options = SourceOptions(rtsp_transport=request.rtsp_transport)
        sources = [Source(spec, options=source_options) for spec in specs]
        opened = _open_sinks(request, files, metrics, health, stack)
        sinks = Sinks(opened, metrics=metrics, health=health, none_left=lambda: pipeline.request_stop())
        pipeline = Pipeline(
            sources,
            detector,
            recognizer,
            sinks,
            options=VideoOptions(selection=request.selection),
            metrics=metrics,
            health=health,
            on_progress=_open_progress(specs, stack),
        )
        raise_interruption()  # if Ctrl-C came while runtimes were imported
        with stop_on_signal(pipeline.request_stop) as interrupted:
            summary = pipeline.run()
    nobody_reads = sinks.all_lost and all(isinstance(error, ReaderGoneError) for error in sinks.all_lost)
    if not nobody_reads:
        wrote = [sink.path for sink in opened if isinstance(sink, (AnnotatedSink, ReportSink)) and sink.wrote]
        _log_summary(summary, wrote, profile=request.profile)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if not nobody_reads:
        _raise_failures(summary, sinks, sources=len(specs), outputs=len(opened))


def _onnx_options(request: _Request, threads: int) -> OnnxOptions:
    score = OnnxOptions().score if request.detector_threshold is None else request.detector_threshold
    return OnnxOptions(layout=request.detector_layout, person_class=request.person_class, score=score, threads=threads)


def _with_secrets(request: _Request) -> _Request:
    """Fill `${NAME}` in the sources and in --mqtt."""
    values = read_secrets(request.secrets)
    mqtt = request.mqtt and filled(request.mqtt, values)
    return dataclasses.replace(request, sources=[filled(source, values) for source in request.sources], mqtt=mqtt)


def _tls_files(request: _Request) -> dict[str, Any]:
    return {
        "ca": request.mqtt_ca,
        "certificate": request.mqtt_cert,
        "key": request.mqtt_key,
        "insecure": request.mqtt_insecure,
    }


def _dry_run(request: _Request) -> None:
    """Check the parts of the run. Each opens as in `_run`."""

    def annotated(specs: list[SourceSpec]) -> list[Path]:
        streams = [spec.name for spec in specs] or ["stream"]
        return list(files_for(request.annotate, streams).values()) if request.annotate else []

    def outputs(specs: list[SourceSpec]) -> list[Path]:
        try:
            drawn = annotated(specs)
        except SinkError:  # reported by the check
            drawn = []
        return [*drawn, *filter(None, (request.report, Path(request.events) if request.events else None))]

    def server() -> tuple[str, Callable[[], None]]:
        address = request.address or "127.0.0.1"
        web = WebServer({}, address=address, port=request.serve or 0, base_url=request.base_url)
        return web.url, web.close

    options = _onnx_options(request, request.threads or usable_cores())
    DryRun(
        sources=request.sources,
        expand=lambda names: expand_sources(names, live=request.live, fps=request.fps),
        checks=(
            lambda _: _check_options(request),
            lambda specs: check_fps(specs, request.fps),
            lambda specs: _check_apart(request, specs, annotated(specs)),
        ),
        open_source=lambda spec: Source(spec, options=SourceOptions(rtsp_transport=request.rtsp_transport)),
        open_detector=None
        if request.detector == "-"
        else lambda: open_detector(request.detector, backend=request.backend, options=options),
        open_recognizer=lambda: Recognizer.from_bundle(
            request.bundle, backend=request.backend, threads=request.threads
        ),
        files=outputs,
        open_broker=(
            lambda metrics, health: MqttSink(request.mqtt or "", **_tls_files(request), metrics=metrics, health=health)
        )
        if request.mqtt
        else None,
        open_server=server if request.serve is not None else None,
    ).run()


def _check_options(request: _Request) -> None:
    for option, value in (("--address", request.address), ("--base-url", request.base_url)):
        if value is not None and request.serve is None:
            raise VideoError(f"{option} {value} needs --serve with a port; add --serve, or omit {option}")
    files = {"--mqtt-ca": request.mqtt_ca, "--mqtt-cert": request.mqtt_cert, "--mqtt-key": request.mqtt_key}
    given = [option for option, file in files.items() if file] + ["--mqtt-insecure"] * request.mqtt_insecure
    if given and request.mqtt is None:
        raise VideoError(f"{given[0]} needs --mqtt with a broker; add --mqtt, or omit {given[0]}")
    if request.base_url is not None:
        read_base_url(request.base_url)
    for option, value in (("--events", request.events), ("--mqtt", request.mqtt), ("--address", request.address)):
        if value == "":
            raise VideoError(f"{option} must have a value, got an empty one; add a value, or omit {option}")
    if request.report is not None and str(request.report) in ("-", "."):
        raise VideoError(f"--report must be a file, got {request.report}; name one, for example people.html")


def _check_apart(request: _Request, specs: list[SourceSpec], annotated: list[Path]) -> None:
    """Refuse an output that is a source, the detector's file, or another output."""
    detector = Path(request.detector)
    places = [place for spec in specs if not spec.is_url for place in spec.pictures or (spec.place,)]
    read = [*map(Path, places)] + [detector] * detector.is_file()
    taken = {_identity(path): "which is also an input" for path in read}
    outputs = [*annotated, request.report, Path(request.events) if request.events else None]
    for path in outputs:
        if path is None or str(path) == "-":
            continue
        if (same := _identity(path)) in taken:
            raise VideoError(f"each output must be a file of its own, got {path}, {taken[same]}; name another")
        taken[same] = "which is also another output"


def _identity(path: Path) -> object:
    """Return equal values for all names of a file: paths, links and, where case is ignored, capitals."""
    try:
        found = path.stat()
    except OSError:
        return path.resolve()
    return found.st_dev, found.st_ino


def _open_sinks(
    request: _Request, files: dict[str, Path], metrics: Metrics, health: Health, stack: contextlib.ExitStack
) -> list[Sink]:
    """Open the outputs, files last: if another output cannot be opened, no file is created."""
    sinks: list[Sink] = []
    with contextlib.ExitStack() as unused:

        def add(sink: Sink) -> None:
            sinks.append(sink)
            unused.callback(sink.close)

        if request.mqtt:
            add(MqttSink(request.mqtt, **_tls_files(request), metrics=metrics, health=health))
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
            add(ReportSink(request.report, videos=files))
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
