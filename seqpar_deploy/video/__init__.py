"""People in videos and streams: `watch` runs everything, `Follower` takes frames from a loop of your own.

What is named here is public, as is `seqpar_deploy.video.sinks`.
"""

from seqpar_deploy.video.attribute_fusion import FusionOptions
from seqpar_deploy.video.crop_selection import ChooserOptions
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.follow import Follower
from seqpar_deploy.video.pipeline import Summary
from seqpar_deploy.video.run import Watch, watch
from seqpar_deploy.video.track import ByteTracker, TrackOptions
from seqpar_deploy.video.types import (
    Attribute,
    Box,
    Detector,
    Event,
    Frame,
    Person,
    Sink,
    TrackedBox,
    Tracker,
)

__all__ = [
    "Attribute",
    "Box",
    "ByteTracker",
    "ChooserOptions",
    "Detector",
    "Event",
    "Follower",
    "Frame",
    "FusionOptions",
    "Person",
    "Sink",
    "Summary",
    "TrackOptions",
    "TrackedBox",
    "Tracker",
    "Watch",
    "open_detector",
    "watch",
]
