"""`seqpar video`: attributes of the people in videos, cameras and streams."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.backends import BackendName
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import INTERRUPTED, raise_interruption, stage
from seqpar_deploy.errors import ReaderGoneError, VideoError
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
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.server import WebServer, metrics_routes
from seqpar_deploy.video.source import Source
from seqpar_deploy.video.source_spec import SourceSpec, expand_sources
from seqpar_deploy.video.types import Sink

_log = logging.getLogger(__name__)


_Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads per inference, and of OpenCV.",
        show_default="the tuned number, else the usable cores",
        min=1,
        max=1024,
    ),
]
_Port = Annotated[
    int | None,
    typer.Option(
        help="Serve a live preview, Prometheus /metrics and /healthz on this port. 0 takes a free one.",
        metavar="PORT",
        min=0,
        max=65535,
    ),
]
_Address = Annotated[
    str | None,
    typer.Option(
        help="Address that --serve listens on. 0.0.0.0 accepts other machines.",
        metavar="ADDRESS",
        show_default="127.0.0.1",
    ),
]


_Sources = Annotated[
    list[str],
    typer.Argument(
        help="Video files, folders or quoted globs. Or live sources: a camera such as 0 or /dev/video0, an "
        "rtsp:// or http:// URL. One run takes files or live sources, not both.",
        metavar="SOURCES",
    ),
]
_Backend = Annotated[
    BackendName,
    typer.Option(
        help="Backend that runs the bundle and an ONNX detector. auto takes the one that seqpar tune chose on "
        "this machine, else the first that can open the bundle."
    ),
]
_Detector = Annotated[
    str,
    typer.Option(
        help="Person detector: motion (built in, for fixed cameras), an .onnx file, or a .jsonl file of boxes.",
        metavar="NAME",
    ),
]
_Events = Annotated[
    str | None,
    typer.Option(
        help="Write events as JSON Lines to this file. - is standard output.",
        metavar="FILE",
        show_default="-, if no other output is given",
    ),
]
_Annotate = Annotated[
    Path | None,
    typer.Option(
        help="Write the video with boxes and attributes drawn: .mp4, or .mkv for runs of several days. Several "
        "sources are written to NAME-SOURCE.mp4 each.",
        metavar="FILE",
    ),
]
_Mqtt = Annotated[
    str | None,
    typer.Option(
        help="Publish events to this MQTT broker, for example mqtts://user:password@host:8883/prefix.",
        metavar="URL",
    ),
]
_MaxCropsPerSecond = Annotated[
    float,
    typer.Option(
        help="Crops to classify per second on average, over all sources. First results of new people may exceed it.",
        metavar="N",
        min=0.1,
    ),
]
_MaxLatency = Annotated[
    float,
    typer.Option(
        help="Seconds to wait for a good crop of a new person. The best crop so far is classified then.",
        metavar="SECONDS",
        min=0,
    ),
]


def video(
    sources: _Sources,
    bundle: options.BundleOption,
    backend: _Backend = "auto",
    detector: _Detector = "motion",
    events: _Events = None,
    annotate: _Annotate = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page of all people.", metavar="FILE")] = None,
    mqtt: _Mqtt = None,
    serve: _Port = None,
    address: _Address = None,
    max_crops_per_second: _MaxCropsPerSecond = 10,
    max_latency: _MaxLatency = 0.5,
    threads: _Threads = None,
    profile: Annotated[bool, typer.Option("--profile", help="Log the time per stage at the end.")] = False,
) -> None:
    """Track people in videos and streams, and emit their attributes.

    An event is emitted when a person's attributes are first known, when they change, and when the person leaves. If
    seqpar tune has run on this machine, its result is used, unless --backend or --threads is given.

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
            detector=detector,
            events=events,
            annotate=annotate,
            report=report,
            mqtt=mqtt,
            serve=serve,
            address=address,
            selection=SelectionOptions(max_crops_per_second=max_crops_per_second, max_latency=max_latency),
            threads=threads,
            profile=profile,
        )
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request:
    """The options of the command, parsed."""

    sources: list[str]
    bundle: Path
    backend: BackendName
    detector: str
    events: str | None
    annotate: Path | None
    report: Path | None
    mqtt: str | None
    serve: int | None
    address: str | None
    selection: SelectionOptions
    threads: int | None
    profile: bool


def _run(request: _Request) -> None:
    _check_options(request)
    specs = expand_sources(request.sources)
    files = files_for(request.annotate, [spec.name for spec in specs]) if request.annotate else {}
    _check_apart(request, specs, list(files.values()))
    check_writable(*files.values(), request.report)
    metrics, health = Metrics(), Health()
    with contextlib.ExitStack() as stack:
        recognizer = Recognizer.from_bundle(request.bundle, backend=request.backend, threads=request.threads)
        stack.callback(recognizer.close)
        threads = request.threads or usable_cores()
        limit_threads(threads)
        detector = open_detector(request.detector, backend=request.backend, options=OnnxOptions(threads=threads))
        stack.callback(detector.close)
        sources = [Source(spec) for spec in specs]
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


def _check_options(request: _Request) -> None:
    if request.address is not None and request.serve is None:
        raise VideoError(f"--address {request.address} needs --serve with a port; add --serve, or omit --address")
    for option, value in (("--events", request.events), ("--mqtt", request.mqtt), ("--address", request.address)):
        if value == "":
            raise VideoError(f"{option} must have a value, got an empty one; add a value, or omit {option}")
    if request.report is not None and str(request.report) in ("-", "."):
        raise VideoError(f"--report must be a file, got {request.report}; name one, for example people.html")


def _check_apart(request: _Request, specs: list[SourceSpec], annotated: list[Path]) -> None:
    """Refuse an output that is a source, the detector's file, or another output."""
    detector = Path(request.detector)
    read = [Path(spec.place) for spec in specs if not spec.is_url] + [detector] * detector.is_file()
    taken = {path.resolve(): "which is also an input" for path in read}
    outputs = [*annotated, request.report, Path(request.events) if request.events else None]
    for path in outputs:
        if path is None or str(path) == "-":
            continue
        if path.resolve() in taken:
            raise VideoError(
                f"each output must be a file of its own, got {path}, {taken[path.resolve()]}; name another"
            )
        taken[path.resolve()] = "which is also another output"


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
            add(MqttSink(request.mqtt, metrics=metrics, health=health))
        if request.serve is not None:
            preview = PreviewSink()
            add(preview)
            routes = preview.routes() | metrics_routes(metrics, health)
            web = WebServer(routes, address=request.address or "127.0.0.1", port=request.serve)
            stack.callback(web.close)
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
            f"{len(summary.failed)} of {sources} sources could not be read; the log above names the causes"
        )
    if summary.hung:
        raise VideoError("an output hung and was abandoned; it and the outputs after it may lack events")
    if sinks.incomplete:
        raise VideoError(f"{len(sinks.incomplete)} of {outputs} outputs are incomplete; the log above names the causes")
