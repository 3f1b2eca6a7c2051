"""Following people from frame to frame: ByteTrack, of Roboflow's `trackers` (Apache 2.0, no torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqpar_deploy.errors import BackendUnavailableError
from seqpar_deploy.video.types import Box, Frame, TrackedBox

KALMAN_RATE = 10.0  # how often a second the library adds its noise of motion; 30 gave twice the identity switches


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Boxes with at least `sure` begin tracks, others only continue them. A track that is not seen for `lost_seconds`
    of the stream has ended; it counts from its `confirmed_after`th frame in a row on. A box continues a track if it is
    at least this `near` to where that is expected: intersection over union, less the squared distance of the centres
    over that of the farthest corners (DIoU, -1 to 1). Below 0 they need not overlap, at few frames a second."""

    sure: float = 0.5
    lost_seconds: float = 2.0
    confirmed_after: int = 2
    near: float = -0.2


class ByteTracker:
    """A `Tracker` for one stream. Time is the stream's own, so dropped frames and interruptions count as what they are;
    what is remembered are the tracks of the last `lost_seconds`."""

    def __init__(self, options: TrackOptions = TrackOptions()) -> None:
        try:
            import supervision
            import trackers
            from trackers.utils.iou import DIoU
        except ImportError as error:
            raise BackendUnavailableError(
                f"following people needs trackers, which cannot be loaded: {error}; pip install 'seqpar-deploy[video]' "
                "and apt-get install libgl1 where libGL.so.1 is missing"
            ) from None
        self._detections = supervision.Detections
        self._tracker = trackers.ByteTrackTracker(
            lost_track_buffer=round(options.lost_seconds * 30),  # the library counts these at 30 a second, always
            frame_rate=KALMAN_RATE,
            track_activation_threshold=options.sure,
            high_conf_det_threshold=options.sure,
            minimum_consecutive_frames=options.confirmed_after,
            minimum_iou_threshold=options.near,
            iou=DIoU(),
        )
        self._seconds = -1.0

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """The boxes that belong to a confirmed track, in no particular order."""
        self._seconds = max(frame.seconds, self._seconds + 0.001)  # the library wants time to pass
        edges = [(box.left, box.top, box.right, box.bottom) for box in boxes]
        detections = self._detections(
            xyxy=np.array(edges, dtype=np.float32).reshape(-1, 4),
            confidence=np.array([box.score for box in boxes], dtype=np.float32),
            data={"row": np.arange(len(boxes))},
        )
        tracked = self._tracker.update(detections, timestamp=self._seconds)
        if not len(tracked):
            return []
        numbers, rows = tracked.tracker_id.tolist(), tracked.data["row"].tolist()
        return [
            TrackedBox(track=number + 1, box=boxes[row])
            for number, row in zip(numbers, rows, strict=True)
            if number >= 0
        ]
