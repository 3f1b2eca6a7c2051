"""The settings of one camera, as in a config file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import msgspec

from seqpar_deploy.config import PositiveNumber, Text
from seqpar_deploy.video.detect.picture import Scaling
from seqpar_deploy.video.sources.hardware import Hwaccel
from seqpar_deploy.video.sources.state import RtspTransport
from seqpar_deploy.video.zones.settings import LineSettings, MaskSettings, SceneSettings, ZoneSettings

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraSettings:
    """The settings of one camera. None is the setting of the whole run.

    Attributes:
        address: Video file, camera number, or URL. `${NAME}` stands for a value of the environment or of a file of
            secrets.
        live: Whether it is a live stream, which is reconnected, or a recording, which ends. Default: by the address.
        fps: Frames per second of a sequence of pictures, or requests per second of a snapshot URL. Default: 25, and 5
            of a snapshot URL.
        rtsp_transport: Transport of RTSP. Default: that of the run.
        hwaccel: Device that decodes. Default: that of the run.
        max_fps: Frames to analyse per second. Default: that of the run.
        detector: "motion", an .onnx file, or a .jsonl file of boxes. Default: that of the run.
        detector_layout: Layout of an ONNX detector's outputs. Default: that of the run.
        person_class: Class of people of an ONNX detector. Default: that of the run.
        detector_threshold: Minimum score of a box, 0 to 1. Default: that of the run.
        detector_scaling: Scaling of the pixels for an ONNX detector. Default: that of the run.
        thresholds: Thresholds file of the states (TOML). Default: that of the run.
        zones: Zones by name. Default: none.
        lines: Lines by name. Default: none.
        masks: Masks by name. Default: none.
    """

    address: Text = dataclasses.field(repr=False)  # it may hold a password
    live: bool | None = None
    fps: PositiveNumber | None = None
    rtsp_transport: RtspTransport | None = None
    hwaccel: Hwaccel | None = None
    max_fps: PositiveNumber | None = None
    detector: Text | None = None
    detector_layout: Text | None = None
    person_class: Text | None = None
    detector_threshold: Share | None = None
    detector_scaling: Scaling | None = None
    thresholds: Text | None = None
    zones: dict[str, ZoneSettings] = dataclasses.field(default_factory=dict)
    lines: dict[str, LineSettings] = dataclasses.field(default_factory=dict)
    masks: dict[str, MaskSettings] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.scene  # its rules hold

    @property
    def scene(self) -> SceneSettings:
        """Its zones, lines and masks."""
        return SceneSettings(zones=self.zones, lines=self.lines, masks=self.masks)

    def differs_in_scene_only(self, other: CameraSettings) -> bool:
        """Whether all settings but zones, lines and masks are those of the other."""
        return dataclasses.replace(self, zones=other.zones, lines=other.lines, masks=other.masks) == other

    @property
    def has_own_detector(self) -> bool:
        """Whether any setting of its detector differs from the run's."""
        own = (self.detector, self.detector_layout, self.person_class, self.detector_threshold, self.detector_scaling)
        return any(value is not None for value in own)


def example() -> str:
    """Return a config file with a comment for each setting."""
    return Path(__file__).with_name("example.toml").read_text(encoding="utf-8")
