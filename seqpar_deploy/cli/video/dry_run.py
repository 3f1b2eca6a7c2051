"""`seqpar video --dry-run`: the parts of the run, each opened as in the run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from seqpar_deploy.cli.dry_run import DryRun
from seqpar_deploy.cli.video import outlets
from seqpar_deploy.cli.video.cameras import CameraOpener
from seqpar_deploy.cli.video.config import Config
from seqpar_deploy.cli.video.recognizer import open_recognizer
from seqpar_deploy.cli.video.request import VideoRequest, check_apart, check_options
from seqpar_deploy.cli.video.server import open_web_server
from seqpar_deploy.errors import SinkError
from seqpar_deploy.machine import usable_cores
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.sinks.annotated import files_for
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, check_fps, expand_sources
from seqpar_deploy.video.sources.state import SourceOptions


def dry_run(request: VideoRequest, config: Config | None) -> None:
    """Check the parts of a run, and print a line for each one, or for its problem."""

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
        web = open_web_server(request, {}, log=False)
        return web.url, web.close

    threads = request.threads or usable_cores()
    options, opener = request.onnx_options(threads), CameraOpener(request=request, threads=threads)
    cameras = config.cameras if config else {}

    def expand(names: list[str]) -> list[SourceSpec]:
        if cameras:
            return opener.specs({name: cameras[name] for name in names})
        return expand_sources(names, live=request.live, fps=request.fps)

    def source_options(spec: SourceSpec) -> SourceOptions:
        return opener.source_options(cameras[spec.name]) if cameras else request.source_options

    DryRun(
        sources=list(cameras) or request.sources or [],
        expand=expand,
        checks=(
            lambda _: check_options(request),
            lambda _: config.check_sources(request) if config else None,
            lambda _: outlets.check_outlets(request),
            lambda specs: None if cameras else check_fps(specs, request.fps),
            *(functools.partial(opener.check, name, settings) for name, settings in cameras.items()),
            lambda specs: check_apart(request, specs, annotated(specs)),
        ),
        open_source=lambda spec: Source(spec, options=source_options(spec)),
        open_detector=None
        if request.detector == "-"
        else lambda: open_detector(request.detector, backend=request.backend, options=options),
        open_recognizer=lambda: open_recognizer(request),
        of_recognizer=[functools.partial(opener.check_thresholds, *camera) for camera in cameras.items()],
        files=outputs,
        open_broker=(
            lambda metrics, health: MqttSink(
                request.mqtt or "", **request.tls_files, status=False, metrics=metrics, health=health
            )
        )
        if request.mqtt
        else None,
        open_server=server if request.serve is not None else None,
        outlets=outlets.dry_checks(request),
    ).run()
