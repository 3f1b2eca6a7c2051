"""Applies the settings of cameras to a pipeline that runs: cameras are added, changed and removed, others go on."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Mapping

from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.video.cameras.settings import CameraSettings
from seqpar_deploy.video.detect.per_stream import StreamDetectors
from seqpar_deploy.video.follow import Follower
from seqpar_deploy.video.pipeline import Pipeline
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.types import Detector
from seqpar_deploy.video.zones.settings import SceneSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """The parts of a camera, ready to start.

    Attributes:
        source: The source, named as the camera.
        detector: Its own detector, or None for that of the run.
        thresholds: Its own thresholds, or None for those of the run.
    """

    source: Source
    detector: Detector | None = None
    thresholds: Thresholds | None = None

    def close(self) -> None:
        """Close the detector, if it has one of its own."""
        if self.detector is not None:
            self.detector.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """Names of the cameras that a new set of settings changed."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{what} {', '.join(names)}" for what, names in dataclasses.asdict(self).items() if names]
        return "; ".join(parts) or "no camera changed"


class Cameras:
    """The cameras of an open-ended pipeline.

    Args:
        pipeline: The pipeline.
        detectors: Its detector.
        open_camera: Opens the parts of a camera from its name and settings, without a start. Raises SeqparError.
        set_scene: Sets the zones, lines and masks of a stream, from its next frame. Default: they are ignored.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        detectors: StreamDetectors,
        open_camera: Callable[[str, CameraSettings], Opened],
        set_scene: Callable[[str, SceneSettings | None], object] = lambda _stream, _scene: None,
    ) -> None:
        self._pipeline, self._detectors, self._open, self._set_scene = pipeline, detectors, open_camera, set_scene
        self._settings: dict[str, CameraSettings] = {}
        self._parts: dict[str, Opened] = {}  # the latest of each camera, started or not
        self._lock = threading.Lock()

    def apply(self, wanted: Mapping[str, CameraSettings]) -> Changes:
        """Add, change and remove cameras until they are as wanted. Those whose settings are the same are not touched.

        If only zones, lines or masks differ, the camera goes on with new ones.

        Args:
            wanted: The settings of all cameras, by name.

        Returns:
            The cameras that changed.

        Raises:
            SeqparError: A camera cannot be opened. Then nothing has changed.
        """
        with self._lock, contextlib.ExitStack() as unused:
            new = {name: settings for name, settings in wanted.items() if self._settings.get(name) != settings}
            opened: dict[str, Opened] = {}
            for name, settings in new.items():
                if name in self._settings and settings.differs_in_scene_only(self._settings[name]):
                    continue
                opened[name] = self._open(name, settings)
                unused.callback(opened[name].close)
            changes = Changes(
                added=tuple(name for name in new if name not in self._settings),
                changed=tuple(name for name in new if name in self._settings),
                removed=tuple(name for name in self._settings if name not in wanted),
            )
            unused.pop_all()  # the detectors belong to `_detectors` now
            for name in changes.removed:
                self._replace(name, None)
                self._set_scene(name, None)
            for name, parts in opened.items():
                self._replace(name, parts)
            for name, settings in new.items():
                self._set_scene(name, settings.scene)
            self._settings = dict(wanted)
            return changes

    def parts(self, name: str) -> Opened | None:
        """Return the present parts of a camera, None if there is none of that name. For `set_scene`."""
        return self._parts.get(name)

    def close(self) -> None:
        """Close the detectors of all cameras, after the run. Safe to call twice."""
        with self._lock:
            for parts in self._parts.values():
                parts.close()

    def _replace(self, name: str, parts: Opened | None) -> None:
        before = self._parts.pop(name, None)
        if parts is not None:
            self._parts[name] = parts
        never_started = self._pipeline.replace(name, parts.source if parts else None, self._start(name, parts))
        if never_started and before is not None:
            before.close()

    def _start(self, name: str, parts: Opened | None) -> Callable[[Follower], None]:
        """Return the function that sets a camera's parts in the thread that tracks, before its first frame."""

        def on_start(follower: Follower) -> None:
            self._detectors.put(name, parts.detector if parts else None)
            follower.set_thresholds(name, parts.thresholds if parts else None)

        return on_start
