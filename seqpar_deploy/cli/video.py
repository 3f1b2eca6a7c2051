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
        help="CPU threads per inference, and of OpenCV. Default: the cores this process may use.", min=1, max=1024
    ),
]
_Port = Annotated[
    int | None, typer.Option(help="Serve a live preview, /metrics and /healthz on this port.", min=0, max=65535)
]
_Address = Annotated[
    str | None,
    typer.Option(
        help="Address --serve listens on; 0.0.0.0 accepts other machines. Default: 127.0.0.1.", show_default=False
    ),
]


def video(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="Video files, folders or quoted globs; live sources such as 0, /dev/video0, rtsp:// or http:// URLs.",
            show_default=False,
        ),
    ],
    bundle: options.BundleOption,
    backend: Annotated[
        BackendName,
        typer.Option(help="Backend, of an ONNX detector too. auto takes the tuned one, else the first that opens."),
    ] = "auto",
    detector: Annotated[
        str,
        typer.Option(
            help="Person detector: motion (built in, for fixed cameras), an .onnx file, or a .jsonl file of boxes."
        ),
    ] = "motion",
    events: Annotated[
        str | None,
        typer.Option(
            help="Write events (docs/events.md) as JSON Lines to this file, - for standard output. Default: - if no "
            "other output is given."
        ),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(help="Write the video with boxes and attributes: .mp4, or .mkv for runs of several days."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page of all tracked people.")] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(help="Publish events to this MQTT broker, for example mqtts://user:password@host:8883/prefix."),
    ] = None,
    serve: _Port = None,
    address: _Address = None,
    max_crops_per_second: Annotated[
        float, typer.Option(help="Limit of crops to classify per second, over all sources.", min=0.1)
    ] = 10,
    max_latency: Annotated[
        float, typer.Option(help="Target, in seconds, from a person's first frame to the first attributes.", min=0)
    ] = 0.5,
    threads: _Threads = None,
    profile: Annotated[bool, typer.Option("--profile", help="Log the time each stage took.")] = False,
) -> None:
    """Track people in videos and streams; emit their attributes.

    Attributes are emitted when they are first known and when they change. Ctrl-C ends the run: frames already read
    are processed, files are finished, and the exit code is 130. The exit code is 2 if a source could not be read or an
    output is incomplete.

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
    """The options of the command."""

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
        raise_interruption()  # one that came while runtimes were imported
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
        raise VideoError(f"--address {request.address} needs --serve with a port; add it, or leave --address out")
    for option, value in (("--events", request.events), ("--mqtt", request.mqtt), ("--address", request.address)):
        if value == "":
            raise VideoError(f"{option} must not be empty; give it a value, or leave it out")
    if request.report is not None and str(request.report) in ("-", "."):
        raise VideoError(f"--report must be a file, for example people.html, got {request.report}")


def _check_apart(request: _Request, specs: list[SourceSpec], annotated: list[Path]) -> None:
    """Refuse an output that is a source, the detector's file, or another output."""
    detector = Path(request.detector)
    read = [Path(spec.place) for spec in specs if not spec.is_url] + [detector] * detector.is_file()
    taken = {path.resolve(): "an input" for path in read}
    outputs = [*annotated, request.report, Path(request.events) if request.events else None]
    for path in outputs:
        if path is None or str(path) == "-":
            continue
        if path.resolve() in taken:
            raise VideoError(f"output {path} is also {taken[path.resolve()]}; name another file")
        taken[path.resolve()] = "another output"


def _open_sinks(
    request: _Request, files: dict[str, Path], metrics: Metrics, health: Health, stack: contextlib.ExitStack
) -> list[Sink]:
    """Open the outputs. Those that write files come last, so that if another cannot be opened no file is left."""
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
    """Show progress through files; live sources have no end."""
    if specs[0].live:
        return None
    return stack.enter_context(stage(specs[0].shown if len(specs) == 1 else f"{len(specs)} files"))


def _log_summary(summary: Summary, files: list[Path], *, profile: bool) -> None:
    """Log the result of the run: standard output may be events."""
    frames, dropped = sum(summary.frames.values()), sum(summary.dropped.values())
    lost = f", {dropped} dropped" if dropped else ""
    unrecognized = f" and {summary.unrecognized} never seen well enough" if summary.unrecognized else ""
    rate = frames / summary.seconds if summary.seconds else 0.0
    people = f"{summary.people} {'person' if summary.people == 1 else 'people'}{unrecognized}"
    _log.info("%s, %d crops recognised; %d frames%s, %.0f per second", people, summary.crops, frames, lost, rate)
    for file in files:
        _log.info("wrote %s", file)
    if profile:
        _log.info("%-16s %8s %8s %8s", "stage", "entered", "ms each", "seconds")
        for name, (times, seconds) in summary.stages.items():
            _log.info("%-16s %8d %8.2f %8.2f", name, times, 1e3 * seconds / times, seconds)


def _raise_failures(summary: Summary, sinks: Sinks, *, sources: int, outputs: int) -> None:
    """Raise VideoError if the run is incomplete."""
    if sinks.all_lost:
        raise VideoError("no output is left to write to, see above")
    if summary.failed:
        raise VideoError(f"{len(summary.failed)} of {sources} sources could not be read, see above")
    if summary.hung:
        raise VideoError("an output hung; it and those after it may lack events")
    if sinks.incomplete:
        raise VideoError(f"{len(sinks.incomplete)} of {outputs} outputs are incomplete, see above")
