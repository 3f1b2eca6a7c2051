"""Masks: detections whose feet are in one of them are not followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seqpar_deploy.video.types import Box, Frame, TrackedBox, Tracker
from seqpar_deploy.video.zones.geometry import contains, feet, in_pixels
from seqpar_deploy.video.zones.settings import MaskSettings


class MaskedTracker:
    """A `Tracker` that does not see the detections in a stream's masks.

    The masks are applied to the tracker and not to the detector, because whoever is detected has to be blurred
    (`--blur`), also in a mask.

    Args:
        tracker: The tracker.
        masks: Function that returns the masks of a stream by its name, for example `ZoneWatcher.masks`.

    Example:
        zones = ZoneWatcher(sinks, scenes)
        watch("rtsp://camera/1", recognizer, tracker=lambda: MaskedTracker(ByteTracker(), zones.masks), sinks=[zones])
    """

    def __init__(self, tracker: Tracker, masks: Callable[[str], Sequence[MaskSettings]]) -> None:
        self._tracker, self._masks = tracker, masks

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """Assign the boxes outside the masks to tracks.

        Args:
            frame: The next frame of the stream.
            boxes: Everyone detected in it.

        Returns:
            As the tracker.
        """
        height, width = frame.image.shape[:2]
        masks = [in_pixels(mask.points, width, height) for mask in self._masks(frame.stream)]
        seen = [box for box in boxes if not any(contains(mask, feet(box)) for mask in masks)]
        return self._tracker.update(frame, seen)
