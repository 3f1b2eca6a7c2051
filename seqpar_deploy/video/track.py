"""The built-in tracker: ByteTrack from Roboflow's `trackers` (Apache 2.0, no torch), with the colours of people."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import BackendUnavailableError
from seqpar_deploy.video.appearance import Appearance, iou
from seqpar_deploy.video.types import Box, Frame, TrackedBox

KALMAN_RATE = 10.0  # updates per second that scale the library's motion noise; 30 gave twice the identity switches
NEUTRAL = 0.7  # likeness of colours that changes no similarity
ALONE = 0.5  # overlap (IoU) from which a track and a box that overlap nothing else are the same, whatever their colours


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
        colours: Weight of colours. The similarity of a track and a box gains this times the likeness of their colours
            (0 to 1) minus 0.7. 0 compares boxes only. Default: 2.
    """

    high_score: float = 0.5
    lost_after: float = 2.0
    confirmed_after: int = 2
    min_similarity: float = -0.2
    colours: float = 2.0  # 1 left twice as many identity switches, see benchmarks/results/detectors.json


class ByteTracker:
    """A `Tracker` for one stream. It uses the frames' timestamps, so dropped frames do no harm.

    Two boxes are of one person if they overlap and have the same colours, or if they overlap much, and nobody else. On
    the street video, colours lower identity switches from 22 to 6 with the built-in detector, and from 31 to 11 with
    NanoDet at the score 0.4.

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
        self._similarity = _Similarity(DIoU(), options.colours) if options.colours else None
        self._tracker = trackers.ByteTrackTracker(
            lost_track_buffer=round(options.lost_after * 30),  # the library assumes 30 frames per second
            frame_rate=KALMAN_RATE,
            track_activation_threshold=options.high_score,
            high_conf_det_threshold=options.high_score,
            minimum_consecutive_frames=options.confirmed_after,
            minimum_iou_threshold=options.min_similarity,
            iou=self._similarity or DIoU(),
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
        listed = [(box.left, box.top, box.right, box.bottom) for box in boxes]
        edges = np.array(listed, dtype=np.float32).reshape(-1, 4)
        if self._similarity:
            self._similarity.see(frame, boxes, edges, self._tracker)
        detections = self._detections(
            xyxy=edges,
            confidence=np.array([box.score for box in boxes], dtype=np.float32),
            data={"row": np.arange(len(boxes))},
        )
        tracked = self._tracker.update(detections, timestamp=self._timestamp)
        if not len(tracked):
            return []
        track_ids, rows = tracked.tracker_id.tolist(), tracked.data["row"].tolist()
        assigned = [(track_id, row) for track_id, row in zip(track_ids, rows, strict=True) if track_id >= 0]
        if self._similarity:
            self._similarity.appearance.learn(self._timestamp, boxes, assigned)
            self._similarity.appearance.forget_all_but({track.tracker_id for track in self._tracker.tracks})
        return [TrackedBox(track_id=track_id + 1, box=boxes[row]) for track_id, row in assigned]


class _Similarity:
    """Similarity of tracks and boxes, in the form that the library calls: by position (DIoU) and by colours.

    The library passes predicted edges and detected edges only. So both are looked up by their values, which it does not
    change. Whatever is not found has neutral colours.
    """

    def __init__(self, position: Any, weight: float) -> None:
        self.appearance = Appearance()
        self._position, self._weight = position, weight
        self._tracker: Any = None
        self._rows: dict[bytes, int] = {}  # of the frame's boxes, by their edges

    def see(self, frame: Frame, boxes: Sequence[Box], edges: npt.NDArray[np.float32], tracker: Any) -> None:
        """Read the frame that `compute` will be called for."""
        self._tracker = tracker
        self._rows = {row.tobytes(): index for index, row in enumerate(edges)}
        self.appearance.see(frame, boxes)

    def compute(self, predicted: npt.NDArray[Any], detected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the similarity of each track's predicted edges and each box (tracks, boxes)."""
        similarity: npt.NDArray[np.float64] = self._position.compute(predicted, detected)
        if not similarity.size:
            return similarity
        track_ids = {track.get_state_bbox().tobytes(): track.tracker_id for track in self._tracker.tracks}
        numbers = [track_ids.get(row.tobytes(), -1) for row in predicted]
        rows = [self._rows.get(row.tobytes(), -1) for row in detected]
        likeness = self.appearance.likeness(numbers, rows, NEUTRAL)
        coloured: npt.NDArray[np.float64] = similarity + self._weight * (likeness - NEUTRAL)
        return np.where(_alone(predicted, detected), np.maximum(coloured, similarity), coloured)


def _alone(predicted: npt.NDArray[Any], detected: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which tracks and boxes overlap much, and nothing else at all.

    Other colours do not part them: the light, or a camera that turns to black and white at night, changes everybody's.
    """
    overlaps = iou(predicted, detected)
    meet = overlaps > 0
    alone = (meet.sum(axis=0)[None] == 1) & (meet.sum(axis=1)[:, None] == 1)
    return np.asarray(alone & (overlaps >= ALONE))
