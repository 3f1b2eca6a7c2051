"""Opens the outputs of `seqpar video`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from seqpar_deploy.cli.video import outlets
from seqpar_deploy.cli.video.request import VideoRequest
from seqpar_deploy.cli.video.server import open_web_server
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.video.monitor import Monitor
from seqpar_deploy.video.sinks.annotated import AnnotatedSink
from seqpar_deploy.video.sinks.draw_zones import Outlines
from seqpar_deploy.video.sinks.jsonl import JsonlSink
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.server import Post, metrics_routes
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.types import Sink
from seqpar_deploy.video.uncertain_crops import UncertainCrops
from seqpar_deploy.video.zones.settings import SceneSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the outputs of a run are opened from.

    Attributes:
        request: The options.
        specs: The sources, as of the start.
        videos: Annotated video of each stream that has one.
        recognizer: The recognizer.
        metrics: Metrics of the run.
        health: Health checks of the run.
        monitor: Compares probabilities with those of the calibration, or None.
        posts: Requests that change the run, for its server.
        outlines: Returns the zones and lines of a stream, to draw them.
    """

    request: VideoRequest
    specs: Sequence[SourceSpec]
    videos: Mapping[str, Path]
    recognizer: AnyRecognizer
    metrics: Metrics
    health: Health
    monitor: Monitor | None
    posts: Mapping[str, Post]
    outlines: Outlines

    def open(self, server: contextlib.ExitStack) -> list[Sink]:
        """Open the outputs, files last: if another output cannot be opened, no file is created.

        Args:
            server: Closes the web server. The pipeline closes the outputs.
        """
        request = self.request
        sinks: list[Sink] = []
        with contextlib.ExitStack() as unused:

            def add(sink: Sink) -> None:
                sinks.append(sink)
                unused.callback(sink.close)

            if (uncertain := self._uncertain()) is not None:
                sinks.append(uncertain)  # not closed if another output fails: it would write its table
            for sink in outlets.open_network(request, self.metrics, self.health):
                add(sink)
            if request.serve is not None:
                preview = PreviewSink(health=self.health, outlines=self.outlines)
                add(preview)
                routes = preview.routes() | metrics_routes(self.metrics, self.health)
                server.callback(open_web_server(request, routes, self.posts).close)
            files = self.videos or request.report or request.save_crops or request.keep_people
            if request.events or not (sinks or files):
                add(JsonlSink(request.events or "-"))
            for sink in outlets.open_kept(request, self.specs, self.recognizer, sinks, self.metrics, self.health):
                add(sink)
            for stream, file in self.videos.items():
                add(AnnotatedSink(stream, file, outlines=self.outlines))
            if request.report:
                drift = self.monitor.report if self.monitor else None
                add(ReportSink(request.report, videos=self.videos, drift=drift))
            unused.pop_all()
        return sinks

    def _uncertain(self) -> UncertainCrops | None:
        folder, most = self.request.uncertain_folder, self.request.keep_uncertain
        if folder is None or most is None:
            return None
        return UncertainCrops(folder, most, self.recognizer.label_set, self.recognizer.thresholds)


@runtime_checkable
class _NamesSources(Protocol):
    """Protocol of an output that keeps the source of a stream."""

    def set_source(self, stream: str, source: str) -> None: ...


def tell_camera(sinks: Iterable[Sink], stream: str, spec: SourceSpec | None, scene: SceneSettings | None) -> None:
    """Tell the outputs the source, zones and lines that a camera has now. None if it is removed."""
    shown = scene or SceneSettings()
    for sink in sinks:
        if spec and isinstance(sink, _NamesSources):
            sink.set_source(stream, outlets.source_of_rows(spec))
        if isinstance(sink, MqttSink):
            sink.set_zones(stream, shown.zones, shown.lines)
        elif isinstance(sink, PreviewSink) and scene is None:
            sink.forget(stream)
