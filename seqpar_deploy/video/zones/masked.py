"""Masks: detections whose feet are in one of them are not followed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from seqpar_deploy.video.types import Box, Frame, TrackedBox, Tracker
from seqpar_deploy.video.zones.geometry import Point, feet, outside
from seqpar_deploy.video.zones.placing import Size, place
from seqpar_deploy.video.zones.settings import MaskSettings


@dataclasses.dataclass(frozen=True)
class _Placed:
    """Masks, and their polygons in pixels of frames of a size."""

    masks: Sequence[MaskSettings]
    size: Size
    polygons: Sequence[Sequence[Point]]


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
        self._polygons: dict[str, _Placed] = {}  # by stream

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """Assign the boxes outside the masks to tracks.

        Args:
            frame: The next frame of the stream.
            boxes: Everyone detected in it.

        Returns:
            As the tracker.
        """
        polygons, rows = self._placed(frame), frame.image.shape[0]
        seen = [box for box in boxes if all(outside(polygon, feet(box, rows)) > 0 for polygon in polygons)]
        return self._tracker.update(frame, seen)

    def _placed(self, frame: Frame) -> Sequence[Sequence[Point]]:
        masks, size = self._masks(frame.stream), (frame.image.shape[1], frame.image.shape[0])
        known = self._polygons.get(frame.stream)
        if known is None or known.masks != masks or known.size != size:
            polygons = [place(f"{frame.stream}: a mask", mask.points, size) for mask in masks]
            known = self._polygons[frame.stream] = _Placed(masks, size, polygons)
        return known.polygons
