"""The options of `seqpar video` together, and the checks before any work."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from seqpar_deploy.cli import options, recognizers
from seqpar_deploy.cli.credentials import filled, read_secrets
from seqpar_deploy.cli.recognizers import ServerRequest
from seqpar_deploy.cli.video import options as given
from seqpar_deploy.cli.video import outlet_options as outlet
from seqpar_deploy.cli.video.privacy_options import Blur
from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.video.options import SelectionOptions
from seqpar_deploy.video.sinks.access import read_base_url, read_token
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.state import SourceOptions
from seqpar_deploy.video.uncertain_crops import check_uncertain

UNCERTAIN_CROPS = "uncertain-crops"  # default folder of --keep-uncertain

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoRequest(ServerRequest):
    """The options of `seqpar video`. Its fields are the parameters of the command."""

    sources: given.Sources = dataclasses.field(default=None, repr=False)  # they may hold passwords, as --mqtt may
    bundle: recognizers.Bundle = None
    backend: given.Backend = "auto"
    live: given.Live = None
    fps: given.Fps = None
    rtsp_transport: given.Transport = "auto"
    hwaccel: given.Hwaccel = "none"
    max_fps: given.MaxFps = None
    adaptive_fps: given.AdaptiveFps = False
    secrets: given.Secrets = None
    detector: given.Detector = "motion"
    detector_layout: given.DetectorLayout = None
    person_class: given.PersonClass = None
    detector_threshold: given.DetectorThreshold = None
    detector_scaling: given.DetectorScaling = None
    events: given.Events = None
    annotate: given.Annotate = None
    report: given.Report = None
    thresholds: given.Thresholds = None
    without: options.Without = None
    blur: Blur = None
    monitor: given.Monitor = False
    keep_uncertain: given.KeepUncertain = None
    uncertain_crops: given.UncertainCrops = None
    mqtt: given.Mqtt = dataclasses.field(default=None, repr=False)
    mqtt_ca: given.MqttCa = None
    mqtt_cert: given.MqttCert = None
    mqtt_key: given.MqttKey = None
    mqtt_insecure: given.MqttInsecure = False
    mqtt_retain: outlet.MqttRetain = False
    home_assistant: outlet.HomeAssistant = False
    mqtt_forget: outlet.MqttForget = False
    webhook: outlet.Webhook = dataclasses.field(default=None, repr=False)
    webhook_secret: outlet.WebhookSecret = None
    webhook_ca: outlet.WebhookCa = None
    redis: outlet.Redis = dataclasses.field(default=None, repr=False)
    redis_most: outlet.RedisMost = None
    redis_ca: outlet.RedisCa = None
    save_crops: outlet.SaveCrops = None
    save_crops_most: outlet.SaveCropsMost = None
    keep_people: outlet.KeepPeople = None
    retain: outlet.Retain = None
    serve: given.Port = None
    address: given.Address = None
    base_url: given.BaseUrl = None
    serve_token: given.ServeToken = None
    max_crops_per_second: given.MaxCropsPerSecond = 10
    max_latency: given.MaxLatency = 0.5
    threads: given.Threads = None
    profile: given.Profile = False
    dry_run: given.DryRun = False
    config: given.Config = None
    init: given.Init = False
    given: frozenset[str] = frozenset()  # options that the command line has

    @property
    def selection(self) -> SelectionOptions:
        return SelectionOptions(max_crops_per_second=self.max_crops_per_second, max_latency=self.max_latency)

    @property
    def source_options(self) -> SourceOptions:
        return SourceOptions(
            rtsp_transport=self.rtsp_transport,
            hwaccel=self.hwaccel,
            max_fps=self.max_fps,
            adaptive_fps=self.adaptive_fps,
        )

    @property
    def uncertain_folder(self) -> Path | None:
        """The folder for uncertain crops, or None if they are not kept."""
        return (self.uncertain_crops or Path(UNCERTAIN_CROPS)) if self.keep_uncertain else None

    @property
    def tls_files(self) -> dict[str, Any]:
        """The TLS options of the MQTT sink."""
        return {
            "ca": self.mqtt_ca,
            "certificate": self.mqtt_cert,
            "key": self.mqtt_key,
            "insecure": self.mqtt_insecure,
        }

    def onnx_options(self, threads: int) -> OnnxOptions:
        score = OnnxOptions().score if self.detector_threshold is None else self.detector_threshold
        return OnnxOptions(
            layout=self.detector_layout,
            person_class=self.person_class,
            score=score,
            scaling=self.detector_scaling,
            threads=threads,
        )

    def with_secrets(self) -> VideoRequest:
        """Fill `${NAME}` in the sources and in the addresses of outputs and of the server."""
        values = read_secrets(self.secrets)
        names = ("mqtt", "webhook", "redis", "server")
        addresses: dict[str, Any] = {name: filled(text, values) for name in names if (text := getattr(self, name))}
        sources = [filled(source, values) for source in self.sources or []]
        return dataclasses.replace(self, sources=sources, **addresses, environment=values)


def check_options(request: VideoRequest) -> None:
    request.check(
        request.bundle, of_bundle={"--monitor": request.monitor}, not_with_server={"--thresholds": request.thresholds}
    )
    options.names_of(request.without)
    of_server = {"--address": request.address, "--base-url": request.base_url, "--serve-token": request.serve_token}
    for option, value in of_server.items():
        if value is not None and request.serve is None:
            raise VideoError(f"{option} {value} needs --serve with a port; add --serve, or omit {option}")
    if request.uncertain_crops is not None and request.keep_uncertain is None:
        raise VideoError("--uncertain-crops needs --keep-uncertain with a number; add it, or omit --uncertain-crops")
    if folder := request.uncertain_folder:
        check_uncertain(folder)
        if request.blur:
            _log.warning("--blur applies to the crops of --keep-uncertain too; they are of little use for labelling")
    files = {"--mqtt-ca": request.mqtt_ca, "--mqtt-cert": request.mqtt_cert, "--mqtt-key": request.mqtt_key}
    given = [option for option, file in files.items() if file] + ["--mqtt-insecure"] * request.mqtt_insecure
    if given and request.mqtt is None:
        raise VideoError(f"{given[0]} needs --mqtt with a broker; add --mqtt, or omit {given[0]}")
    if request.serve_token is not None:
        read_token(request.serve_token)
    if request.base_url is not None:
        read_base_url(request.base_url)
    for option, value in (("--events", request.events), ("--mqtt", request.mqtt), ("--address", request.address)):
        if value == "":
            raise VideoError(f"{option} must have a value, got an empty one; add a value, or omit {option}")
    if request.report is not None and str(request.report) in ("-", "."):
        raise VideoError(f"--report must be a file, got {request.report}; name one, for example people.html")


def check_apart(request: VideoRequest, specs: list[SourceSpec], annotated: list[Path]) -> None:
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
        if (folder := request.uncertain_folder) and folder.resolve() in path.resolve().parents:
            raise VideoError(f"{folder} must hold uncertain crops only, got the output {path}; name another folder")


def _identity(path: Path) -> object:
    """Return equal values for all names of a file: paths, links and, where case is ignored, capitals."""
    try:
        found = path.stat()
    except OSError:
        return path.resolve()
    return found.st_dev, found.st_ino
