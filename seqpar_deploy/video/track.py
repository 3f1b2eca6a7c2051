"""The built-in tracker: ByteTrack from Roboflow's `trackers` (Apache 2.0, no torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqpar_deploy.errors import BackendUnavailableError
from seqpar_deploy.video.types import Box, Frame, TrackedBox

KALMAN_RATE = 10.0  # updates per second that scale the library's motion noise; 30 gave twice the identity switches


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Options of `ByteTracker`.

    Attributes:
        high_score: Minimum detector score, 0 to 1, of a box that starts a track. Boxes below only continue a track.
            Default: 0.5.
        lost_after: Seconds without a box after which a track ends. Default: 2.
        confirmed_after: Number of consecutive frames after which a track is reported. Default: 2.
        min_similarity: Minimum similarity (DIoU, -1 to 1) of a box and a track's predicted box. Below 0 the boxes need
            not overlap, which helps at few frames per second. Default: -0.2.
    """

    high_score: float = 0.5
    lost_after: float = 2.0
    confirmed_after: int = 2
    min_similarity: float = -0.2


class ByteTracker:
    """A `Tracker` for one stream. It uses the frames' timestamps, so dropped frames do no harm.

    Args:
        options: Thresholds to start, continue and end tracks. Default: `TrackOptions()`.

    Raises:
        BackendUnavailableError: `trackers` is not installed.

    Example:
        watch("street.mp4", recognizer, tracker=lambda: ByteTracker(TrackOptions(lost_after=5)))
    """

    def __init__(self, options: TrackOptions = TrackOptions()) -> None:
        try:
            import supervision
            import trackers
            from trackers.utils.iou import DIoU
        except ImportError as error:
            raise BackendUnavailableError(
                f"tracking needs trackers, which cannot be loaded: {error}; pip install 'seqpar-deploy[video]', and "
                "apt-get install libgl1 if libGL.so.1 is missing"
            ) from None
        self._detections = supervision.Detections
        self._tracker = trackers.ByteTrackTracker(
            lost_track_buffer=round(options.lost_after * 30),  # the library assumes 30 frames per second
            frame_rate=KALMAN_RATE,
            track_activation_threshold=options.high_score,
            high_conf_det_threshold=options.high_score,
            minimum_consecutive_frames=options.confirmed_after,
            minimum_iou_threshold=options.min_similarity,
            iou=DIoU(),
        )
        self._timestamp = -1.0

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """Assign boxes to tracks.

        Args:
            frame: The next frame of the stream.
            boxes: Everyone detected in it.

        Returns:
            The boxes that belong to a confirmed track, in any order, with track IDs from 1.
        """
        self._timestamp = max(frame.timestamp, self._timestamp + 0.001)  # the library needs increasing timestamps
        edges = [(box.left, box.top, box.right, box.bottom) for box in boxes]
        detections = self._detections(
            xyxy=np.array(edges, dtype=np.float32).reshape(-1, 4),
            confidence=np.array([box.score for box in boxes], dtype=np.float32),
            data={"row": np.arange(len(boxes))},
        )
        tracked = self._tracker.update(detections, timestamp=self._timestamp)
        if not len(tracked):
            return []
        track_ids, rows = tracked.tracker_id.tolist(), tracked.data["row"].tolist()
        return [
            TrackedBox(track_id=track_id + 1, box=boxes[row])
            for track_id, row in zip(track_ids, rows, strict=True)
            if track_id >= 0
        ]
