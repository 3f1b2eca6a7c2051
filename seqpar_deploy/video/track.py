"""The built-in tracker: ByteTrack, of Roboflow's `trackers` (Apache 2.0, no torch)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqpar_deploy.errors import BackendUnavailableError
from seqpar_deploy.video.types import Box, Frame, TrackedBox

KALMAN_RATE = 10.0  # updates per second of the library's motion noise; 30 gave twice the identity switches


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackOptions:
    """Options of `ByteTracker`.

    Args:
        high_score: Detector score from which a box may start a track, 0 to 1. Others only continue one. Default: 0.5.
        lost_after: Seconds of the stream without a box after which a track has ended. Default: 2.
        confirmed_after: Consecutive frames after which a track is reported. Default: 2.
        min_similarity: Similarity of a box and a track's expected box, DIoU from -1 to 1, from which the box continues
            the track. Below 0 they need not overlap, which helps at few frames per second. Default: -0.2.
    """

    high_score: float = 0.5
    lost_after: float = 2.0
    confirmed_after: int = 2
    min_similarity: float = -0.2


class ByteTracker:
    """A `Tracker` for one stream. It goes by the stream's timestamps, so dropped frames do no harm.

    Args:
        options: When tracks start, continue and end.

    Raises:
        BackendUnavailableError: `trackers` is not installed.
    """

    def __init__(self, options: TrackOptions = TrackOptions()) -> None:
        try:
            import supervision
            import trackers
            from trackers.utils.iou import DIoU
        except ImportError as error:
            raise BackendUnavailableError(
                f"tracking needs trackers, which cannot be loaded: {error}; pip install 'seqpar-deploy[video]' "
                "and apt-get install libgl1 where libGL.so.1 is missing"
            ) from None
        self._detections = supervision.Detections
        self._tracker = trackers.ByteTrackTracker(
            lost_track_buffer=round(options.lost_after * 30),  # the library always counts 30 per second
            frame_rate=KALMAN_RATE,
            track_activation_threshold=options.high_score,
            high_conf_det_threshold=options.high_score,
            minimum_consecutive_frames=options.confirmed_after,
            minimum_iou_threshold=options.min_similarity,
            iou=DIoU(),
        )
        self._timestamp = -1.0

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """Return the boxes that belong to a confirmed track, in no particular order."""
        self._timestamp = max(frame.timestamp, self._timestamp + 0.001)  # the library wants time to pass
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
