"""The cameras of a config file in a run of `seqpar video`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from seqpar_deploy.calibration.thresholds import Thresholds, read_thresholds
from seqpar_deploy.cli.credentials import filled, read_secrets
from seqpar_deploy.cli.recognizers import local_recognizer
from seqpar_deploy.cli.video.config import Config, parse_config
from seqpar_deploy.cli.video.request import VideoRequest
from seqpar_deploy.errors import SeqparError, VideoError
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.video.cameras.manager import Cameras, Opened
from seqpar_deploy.video.cameras.reloading import POSTS, Reloader
from seqpar_deploy.video.cameras.settings import CameraSettings
from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.detect.per_stream import StreamDetectors
from seqpar_deploy.video.detect.shared import SharedDetectors
from seqpar_deploy.video.pipeline import Pipeline
from seqpar_deploy.video.sinks.metrics import Health
from seqpar_deploy.video.sinks.server import Answer, Post
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, check_fps, expand_sources
from seqpar_deploy.video.sources.state import SourceOptions
from seqpar_deploy.video.types import Detector
from seqpar_deploy.video.zones.settings import SceneSettings
from seqpar_deploy.video.zones.watcher import ZoneWatcher
from seqpar_deploy.without import Boundary

_log = logging.getLogger(__name__)

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraOpener:
    """Opens the parts of cameras, with the options of the run where a camera has no setting of its own.

    Attributes:
        request: The options of the run.
        threads: CPU threads of an ONNX detector.
        shared: ONNX detectors, which cameras with the same settings share.
    """

    request: VideoRequest
    threads: int
    shared: SharedDetectors = dataclasses.field(default_factory=SharedDetectors)

    def spec(self, name: str, settings: CameraSettings) -> SourceSpec:
        """Return the source of a camera, under the camera's name. Raises VideoError."""
        address = filled(settings.address, read_secrets(self.request.secrets))
        live, fps = _first(settings.live, self.request.live), _first(settings.fps, self.request.fps)
        with _naming(name):
            specs = expand_sources([address], live=live, fps=fps)
            if len(specs) > 1:
                raise VideoError(f"address must be one source, got {len(specs)}; give each a camera of its own")
            if settings.fps is not None:
                check_fps(specs, fps)
        return dataclasses.replace(specs[0], name=name)

    def specs(self, cameras: Mapping[str, CameraSettings]) -> list[SourceSpec]:
        """Return the sources of all cameras. Raises VideoError if some are live and others are recorded."""
        specs = [self.spec(name, settings) for name, settings in cameras.items()]
        check_alike(specs)
        return specs

    def open(self, name: str, settings: CameraSettings, recognizer: AnyRecognizer) -> Opened:
        """Open a camera without a start. Raises SeqparError."""
        source = Source(self.spec(name, settings), options=self.source_options(settings))
        with _naming(name):
            thresholds = self.thresholds(settings, recognizer)
            detector = self.detector(settings)
        return Opened(source=source, detector=detector, thresholds=thresholds)

    def check(self, name: str, settings: CameraSettings, _specs: object = None) -> None:
        """Raise DetectorError if the own detector of a camera cannot be opened."""
        with _naming(name):
            detector = self.detector(settings)
        if detector is not None:
            detector.close()

    def check_thresholds(self, name: str, settings: CameraSettings, recognizer: AnyRecognizer) -> None:
        """Raise SeqparError if the thresholds of a camera cannot be read, or do not fit."""
        with _naming(name):
            self.thresholds(settings, recognizer)

    def source_options(self, settings: CameraSettings) -> SourceOptions:
        """Return how a camera is read."""
        usual = self.request.source_options
        return dataclasses.replace(
            usual,
            rtsp_transport=settings.rtsp_transport or usual.rtsp_transport,
            hwaccel=settings.hwaccel or usual.hwaccel,
            max_fps=_first(settings.max_fps, usual.max_fps),
        )

    def thresholds(self, settings: CameraSettings, recognizer: AnyRecognizer) -> Thresholds | None:
        """Read the thresholds of a camera, or return None for those of the run. Raises SeqparError."""
        return _thresholds(Path(settings.thresholds), recognizer) if settings.thresholds else None

    def detector(self, settings: CameraSettings) -> Detector | None:
        """Open the detector of a camera, or return None for that of the run. Raises DetectorError."""
        if not settings.has_own_detector:
            return None
        usual = self.request.onnx_options(self.threads)
        options = OnnxOptions(
            layout=settings.detector_layout or usual.layout,
            person_class=settings.person_class or usual.person_class,
            score=_first(settings.detector_threshold, usual.score),
            scaling=settings.detector_scaling or usual.scaling,
            threads=self.threads,
        )
        wanted = settings.detector or self.request.detector

        def open_one() -> Detector:
            return open_detector(wanted, backend=self.request.backend, options=options)

        # The others keep state of their streams: that of a camera ends when its settings change.
        return self.shared.open((wanted, options), open_one) if wanted.lower().endswith(".onnx") else open_one()


class ConfigRun:
    """The cameras of a config file in one run: live ones follow the file, recordings are read one after the other.

    Args:
        config: The file as of the start of the run.
        opener: Opens the cameras.
        live: Whether they are live.
    """

    def __init__(self, config: Config, opener: CameraOpener, *, live: bool) -> None:
        self._path, self._options, self._initial = config.path, dict(config.options), config.cameras
        self._state = config.state
        self._opener, self.live = opener, live
        self._reloader: Reloader | None = None

    def sources(self, detectors: StreamDetectors, recognizer: AnyRecognizer) -> list[Source]:
        """Return the sources to start with: recordings, with their own detectors. Live ones start with `attach`."""
        self._recognizer, self._detectors = recognizer, detectors
        if self.live:
            return []
        self._recorded = {name: self._open(name, settings) for name, settings in self._initial.items()}
        for name, parts in self._recorded.items():
            detectors.put(name, parts.detector)
        return [parts.source for parts in self._recorded.values()]

    def attach(
        self,
        pipeline: Pipeline,
        zones: ZoneWatcher,
        health: Health,
        stack: contextlib.ExitStack,
        *,
        changed: Callable[[str, SourceSpec | None, SceneSettings | None], object] = lambda _name, _spec, _scene: None,
    ) -> None:
        """Give the pipeline its cameras, and follow the file until the end of the stack.

        `changed` is called with each camera's name, source, and zones, lines and masks when they change, and with None
        for them once the file has the camera no more.
        """

        def set_scene(name: str, scene: SceneSettings | None) -> None:
            zones.set_scene(name, scene)
            parts = cameras.parts(name) if self.live else self._recorded[name]
            changed(name, parts.source.spec if parts else None, scene)

        if not self.live:
            for name, parts in self._recorded.items():
                pipeline.follower.set_thresholds(name, parts.thresholds)
                set_scene(name, self._initial[name].scene)
            return
        cameras = Cameras(pipeline, self._detectors, self._open, set_scene)
        stack.callback(cameras.close)
        cameras.apply(self._initial)
        self._reloader = Reloader(self._path, self.parse, cameras, seen=self._state, health=health)
        stack.callback(self._reloader.close)

    def posts(self) -> dict[str, Post]:
        """Return the requests that change cameras, for the server, which opens before the pipeline."""

        def later(path: str) -> Post:
            def answer(rest: str, body: bytes) -> Answer:
                if self._reloader is None:
                    return Answer(body=b"cameras can be changed while a live run goes on, not before\n", status=409)
                return self._reloader.posts()[path](rest, body)

            return answer

        return {path: later(path) for path in POSTS}

    def _open(self, name: str, settings: CameraSettings) -> Opened:
        opened = self._opener.open(name, settings, self._recognizer)
        if opened.source.spec.live == self.live:
            return opened
        opened.close()
        raise VideoError(f"cameras.{name} must be live as the others, got a recording; set live = true, or omit it")

    def parse(self, content: bytes) -> Mapping[str, CameraSettings]:
        """Return the cameras of the file's content. Raises SeqparError. Other options that changed are logged."""
        config = parse_config(content, self._path)
        names = {**self._options, **config.options}
        if changed := [name for name in names if self._options.get(name) != config.options.get(name)]:
            _log.warning("%s: %s changed; restart to apply it", self._path, ", ".join(changed))
            self._options = dict(config.options)
        return config.cameras


def check_alike(specs: Iterable[SourceSpec]) -> None:
    """Raise VideoError if some sources are live and others are recorded."""
    kinds = {spec.live: spec.name for spec in specs if not spec.problem}
    if len(kinds) > 1:
        raise VideoError(
            f"cameras must be all live or all recordings, got the live {kinds[True]} and the recording {kinds[False]}; "
            "set live for one of them, or run them separately"
        )


def _thresholds(path: Path, recognizer: AnyRecognizer) -> Thresholds:
    """Read a thresholds file, which may also name attributes that are kept out."""
    local = local_recognizer(recognizer)
    known = recognizer.label_set if local is None else local.bundle.label_set
    left = {attribute.name for attribute in recognizer.label_set.attributes}
    removed = [attribute.name for attribute in known.attributes if attribute.name not in left]
    thresholds = Boundary(known, removed).thresholds(read_thresholds(path, known))
    assert thresholds is not None
    return thresholds


@contextlib.contextmanager
def _naming(camera: str) -> Iterator[None]:
    """Name the camera in errors."""
    try:
        yield
    except SeqparError as error:
        raise type(error)(f"cameras.{camera}: {error}") from None


def _first(own: Value | None, usual: Value) -> Value:
    return usual if own is None else own
