"""People in videos and streams. `watch` runs the whole pipeline, `Follower` processes frames from your own loop.

The names in `__all__` are public, and those of `seqpar_deploy.video.sinks`.
"""

from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.follow import Follower
from seqpar_deploy.video.options import FusionOptions, LifetimeOptions, SelectionOptions, VideoOptions
from seqpar_deploy.video.pipeline import Summary
from seqpar_deploy.video.run import Watch, watch
from seqpar_deploy.video.track import ByteTracker, TrackOptions
from seqpar_deploy.video.types import (
    Attribute,
    Box,
    Detector,
    Event,
    ForgetsStreams,
    Frame,
    Person,
    Readiness,
    Sighting,
    Sink,
    StreamSink,
    TrackedBox,
    Tracker,
    ZoneEvent,
    ZoneSink,
)
from seqpar_deploy.video.zones.masked import MaskedTracker
from seqpar_deploy.video.zones.settings import LineSettings, MaskSettings, SceneSettings, ZoneSettings
from seqpar_deploy.video.zones.watcher import ZoneWatcher

__all__ = [
    "Attribute",
    "Box",
    "ByteTracker",
    "Detector",
    "Event",
    "Follower",
    "ForgetsStreams",
    "Frame",
    "FusionOptions",
    "LifetimeOptions",
    "LineSettings",
    "MaskSettings",
    "MaskedTracker",
    "OnnxOptions",
    "Person",
    "Readiness",
    "SceneSettings",
    "SelectionOptions",
    "Sighting",
    "Sink",
    "StreamSink",
    "Summary",
    "TrackOptions",
    "TrackedBox",
    "Tracker",
    "VideoOptions",
    "Watch",
    "ZoneEvent",
    "ZoneSettings",
    "ZoneSink",
    "ZoneWatcher",
    "open_detector",
    "watch",
]
