"""`seqpar video`: attributes of the people in videos, cameras and streams."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from seqpar_deploy.backends import BackendName
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import INTERRUPTED
from seqpar_deploy.errors import ReaderGoneError, VideoError
from seqpar_deploy.files import check_writable
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.crop_selection import ChooserOptions
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.annotated import AnnotatedSink, files_for
from seqpar_deploy.video.sinks.fan_out import say
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
    serve: Annotated[
        int | None, typer.Option(help="Serve a live preview, /metrics and /healthz on this port.", min=0, max=65535)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Address --serve listens on; 0.0.0.0 accepts other machines. Default: 127.0.0.1.", show_default=False
        ),
    ] = None,
    max_crops_per_second: Annotated[
        float, typer.Option(help="Limit of crops to classify per second, over all sources.", min=0.1)
    ] = 10,
    max_latency: Annotated[
        float, typer.Option(help="Target, in seconds, from a person's first frame to the first attributes.", min=0)
    ] = 0.5,
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
    if address is not None and serve is None:
        raise VideoError(f"--address {address} says where --serve listens; add --serve with a port, or leave it out")
    for option, value in (("--events", events), ("--mqtt", mqtt), ("--address", address)):
        if value == "":
            raise VideoError(f"{option} is empty; give it a value, or leave it out")
    if report is not None and str(report) in ("-", "."):
        raise VideoError(f"the report cannot go to {report}; name a file, such as people.html")
    specs = expand_sources(sources)
    metrics, health = Metrics(), Health()
    with contextlib.ExitStack() as stack, contextlib.ExitStack() as unused:
        recognizer = stack.enter_context(Recognizer.from_bundle(bundle, backend=backend))
        finder = open_detector(detector, backend=backend)
        stack.callback(finder.close)
        files = _annotated_files(annotate, specs)
        outputs = [*files.values(), *([report] if report else []), *([Path(events)] if events else [])]
        _check_apart(specs, Path(detector), outputs)
        check_writable(*files.values(), report)
        told: list[Sink] = []

        def tell(sink: Sink) -> None:
            told.append(sink)
            unused.callback(sink.close)  # where a later one cannot be opened

        opened = [Source(spec, report=say) for spec in specs]
        if mqtt:
            tell(MqttSink(mqtt, metrics=metrics, health=health))
        if serve is not None:
            preview = PreviewSink()
            tell(preview)
            routes = preview.routes() | metrics_routes(metrics, health)
            web = WebServer(routes, address=address or "127.0.0.1", port=serve)
            stack.callback(web.close)
            say(f"preview, /metrics and /healthz at {web.url}")
        # Those that write files come last: what cannot start leaves none behind.
        if events or not (annotate or report or mqtt or serve is not None):
            tell(JsonlSink(events or "-"))
        for stream, file in files.items():
            tell(AnnotatedSink(stream, file))
        if report:
            tell(ReportSink(report, videos=files))
        sinks = Sinks(told, metrics=metrics, health=health, none_left=lambda: pipeline.request_stop())
        pipeline = Pipeline(
            opened,
            finder,
            recognizer,
            sinks,
            chooser=ChooserOptions(max_crops_per_second=max_crops_per_second, max_latency=max_latency),
            metrics=metrics,
            health=health,
        )
        unused.pop_all()  # the pipeline closes them
        with _first_signal(pipeline.request_stop) as interrupted:
            summary = pipeline.run()
    nobody_listens = sinks.all_lost and all(isinstance(error, ReaderGoneError) for error in sinks.all_lost)
    if not nobody_listens:
        wrote = [sink.path for sink in told if isinstance(sink, (AnnotatedSink, ReportSink)) and sink.wrote]
        _print(summary, wrote, profile)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if nobody_listens:
        return
    if sinks.all_lost:
        raise VideoError("no output was left to write to, see above")
    if summary.failed:
        raise VideoError(f"{len(summary.failed)} of {len(specs)} sources could not be read, see above")
    if summary.hung:
        raise VideoError("an output hung, and may lack events; so may those after it")
    if sinks.incomplete:
        raise VideoError(f"{len(sinks.incomplete)} of {len(told)} outputs are incomplete, see above")


@contextlib.contextmanager
def _first_signal(request_stop: Callable[[], None]) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM asks to stop, a second interrupts at once. The signals that came."""
    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        request_stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _annotated_files(annotate: Path | None, specs: list[SourceSpec]) -> dict[str, Path]:
    """Where each stream's annotated video goes."""
    return files_for(annotate, [spec.name for spec in specs]) if annotate else {}


def _check_apart(specs: list[SourceSpec], detector: Path, outputs: list[Path]) -> None:
    """No output is a source, the detector's file, nor another output."""
    read = [Path(spec.place) for spec in specs if not spec.is_url] + [detector] * detector.is_file()
    taken = {path.resolve(): "read" for path in read}
    for path in outputs:
        if str(path) == "-":
            continue
        if path.resolve() in taken:
            raise VideoError(f"{path} would be written, which is {taken[path.resolve()]}; name another file")
        taken[path.resolve()] = "written already"


def _print(summary: Summary, files: list[Path], profile: bool) -> None:
    """Log what a run came to: standard output may hold events."""
    frames, dropped = sum(summary.frames.values()), sum(summary.dropped.values())
    lost = f", {dropped} dropped" if dropped else ""
    unanswered = f" and {summary.unanswered} never seen well enough" if summary.unanswered else ""
    rate = frames / summary.seconds if summary.seconds else 0.0
    people = f"{summary.people} {'person' if summary.people == 1 else 'people'}{unanswered}"
    lines = [
        f"{people}, {summary.crops} crops recognised; {frames} frames{lost}, {rate:.0f} a second",
        *(f"wrote {file}" for file in files),
    ]
    if profile:
        lines.append(f"{'stage':16} {'entered':>8} {'ms each':>8} {'seconds':>8}")
        for name, (times, seconds) in summary.stages.items():
            lines.append(f"{name:16} {times:8} {1e3 * seconds / times:8.2f} {seconds:8.2f}")
    for line in lines:
        _log.info("%s", line)
