"""Selects the crops to recognise, within a budget: those that are expected to change or settle attributes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from seqpar_deploy.preprocess import Crop, RgbImage
from seqpar_deploy.video.options import LifetimeOptions, SelectionOptions
from seqpar_deploy.video.quality import cut_out, from_geometry, sharpness
from seqpar_deploy.video.types import Box, Frame, Person, Sighting, TrackedBox


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A crop to recognise, uint8 RGB (h, w, 3), with its sighting and its quality, 0 to 1.

    `picture` is what may be shown of it, or None if that is the crop itself.
    """

    stream: str
    track_id: int
    sighting: Sighting
    crop: Crop
    quality: float
    picture: Crop | None = None

    def to_show(self) -> Candidate:
        """Return the candidate with the pixels that may be shown only, after it was recognised."""
        return self if self.picture is None else dataclasses.replace(self, crop=self.picture, picture=None)


@dataclasses.dataclass(slots=True)
class _Track:
    """State of one person. Times are timestamps of the stream."""

    first: float
    last: float
    interval: float
    taken: float | None = None  # timestamp of the latest crop taken
    best: float = 0.0  # quality of the best crop taken
    uncertainty: float = 1.0
    centre: complex = 0j  # of the box, in pixels
    velocity: complex = 0j  # smoothed, in the person's heights per second
    taken_velocity: complex = 0j
    waiting: Candidate | None = None

    def move(self, box: Box, timestamp: float) -> None:
        centre = complex(box.left + box.right, box.top + box.bottom) / 2
        if (passed := timestamp - self.last) > 0:
            velocity = (centre - self.centre) / max(1.0, box.bottom - box.top) / passed
            self.velocity += (1 - 0.5 ** (passed / _SMOOTHING)) * (velocity - self.velocity)
        self.centre, self.last = centre, timestamp
        if abs(self.taken_velocity) < _STANDING:
            self.taken_velocity = self.velocity  # the first direction after the crop was taken

    def turned(self) -> float:
        """Return the change of walking direction since the latest crop taken: 0 for none, 1 for half a turn."""
        now, then = self.velocity, self.taken_velocity
        if min(abs(now), abs(then)) < _STANDING:
            return 0.0
        return (1 - (now * then.conjugate()).real / (abs(now) * abs(then))) / 2


_HALF_LIFE = 1.0  # seconds in which a waiting crop loses half its value
_MOST_BETTER = 2.0  # maximum gain factor for a crop that is better than all earlier ones
_WORTHLESS = 0.03  # quality below which a crop mostly shows another person
_TURNED = 8.0  # additional gain factor for half a turn
_SMOOTHING = 0.5  # half-life in seconds of the smoothed velocity
_STANDING = 0.1  # heights per second; slower people have no direction
_START = 0.5  # expected gain from which crops are collected; they are taken from 1 on
_MOST_DEBT = 10.0  # seconds of the budget that first crops may use in advance
_OVERDUE, _FIRST = 1e6, 1e3  # gains of first crops, above all others


class CropSelector:
    """Selects crops of tracked boxes. At most one crop per person waits, the best recent one.

    It is deterministic: it uses only the frames' timestamps and the clock passed to `take`. For one thread at a time.
    """

    def __init__(
        self, options: SelectionOptions = SelectionOptions(), lifetime: LifetimeOptions = LifetimeOptions()
    ) -> None:
        self._options, self._lifetime = options, lifetime
        self._tracks: dict[tuple[str, int], _Track] = {}
        self._clocks: dict[str, float] = {}
        self._now = -math.inf
        self._allowance = self._most_allowance = max(1.0, options.max_crops_per_second)

    def offer(
        self,
        frame: Frame,
        boxes: Sequence[TrackedBox],
        people: Mapping[int, Person],
        shown: RgbImage | None = None,
    ) -> None:
        """Consider everyone in a frame. `people` are those with attributes, by track ID.

        `shown` are the pixels of the frame that may be shown, or None for all of them. Pass frames without people too,
        in order within their stream, because they advance the clock.
        """
        self._clocks[frame.stream] = frame.timestamp
        for tracked in boxes:
            key = (frame.stream, tracked.track_id)
            track = self._tracks.get(key)
            if track is None:
                track = _Track(first=frame.timestamp, last=frame.timestamp, interval=self._options.min_interval)
                self._tracks[key] = track
            track.move(tracked.box, frame.timestamp)
            if (person := people.get(tracked.track_id)) is not None:
                track.uncertainty = uncertainty(person)
            others = [other.box for other in boxes if other is not tracked]
            self._consider(track, frame, tracked, others, shown)
        self._forget(frame.stream)
        self._bound()

    def take(self, limit: int, now: float) -> list[Candidate]:
        """Return at most `limit` crops to recognise, highest gain first.

        `now` is the time of the budget of crops per second, in seconds of a clock that does not go back.
        """
        if now > self._now:
            earned = (now - self._now) * self._options.max_crops_per_second if math.isfinite(self._now) else 0.0
            self._allowance = min(self._most_allowance, self._allowance + earned)
            self._now = now
        taken: list[Candidate] = []
        for track in sorted((track for track in self._tracks.values() if track.waiting), key=self._gain, reverse=True):
            gain = self._gain(track)
            if len(taken) == limit or gain < 1 or (self._allowance < 1 and gain < _FIRST):
                break
            self._allowance = max(-_MOST_DEBT * self._options.max_crops_per_second, self._allowance - 1)
            taken.append(self._take(track))
        for stream in {candidate.stream for candidate in taken}:
            self._forget(stream)
        return taken

    def finish(self, stream: str) -> None:
        """End a stream: first crops that wait are due now, all other people are forgotten."""
        self._clocks[stream] = math.inf
        self._forget(stream)

    def forget(self, stream: str) -> None:
        """Drop all waiting crops of a stream."""
        self._tracks = {key: track for key, track in self._tracks.items() if key[0] != stream}
        self._clocks.pop(stream, None)

    def _consider(
        self, track: _Track, frame: Frame, tracked: TrackedBox, others: Sequence[Box], shown: RgbImage | None
    ) -> None:
        """Keep this crop as the waiting one if it is better. Most crops fail the cheap checks that read no pixels."""
        box = tracked.box
        bar = self._worth(track)
        bound = from_geometry(box, others, frame.image.shape[:2])
        if bound <= max(bar, _WORTHLESS) or self._expected(track, bound) < _START:
            return
        crop = cut_out(frame.image, box, self._options.margin)
        quality = bound * sharpness(crop)
        if quality > bar:
            track.waiting = Candidate(
                stream=frame.stream,
                track_id=tracked.track_id,
                sighting=Sighting(frame=frame.index, timestamp=frame.timestamp, box=box),
                crop=crop,
                quality=quality,
                picture=None if shown is None else cut_out(shown, box, self._options.margin),
            )

    def _worth(self, track: _Track) -> float:
        """Return the quality of the waiting crop, discounted by its age. Below 0 if none waits."""
        if track.waiting is None:
            return -1.0
        age = track.last - track.waiting.sighting.timestamp
        return track.waiting.quality * math.pow(0.5, age / _HALF_LIFE)

    def _gain(self, track: _Track) -> float:
        """Return the expected gain of the waiting crop. It may be taken from 1 on."""
        assert track.waiting is not None
        if track.taken is None:
            waited = self._clocks[track.waiting.stream] - track.first
            if waited >= self._options.max_latency:
                return _OVERDUE + min(waited, _OVERDUE)
            return _FIRST + track.waiting.quality if track.waiting.quality >= self._options.good_quality else 0.0
        return self._expected(track, track.waiting.quality)

    def _expected(self, track: _Track, quality: float) -> float:
        """Return the expected gain of a crop: it grows with quality, turning, and the age of the latest crop taken."""
        if track.taken is None:
            return math.inf
        age = (track.last - track.taken) / track.interval
        return age * min(_MOST_BETTER, quality / track.best) * (1 + _TURNED * track.turned())

    def _take(self, track: _Track) -> Candidate:
        candidate, track.waiting = track.waiting, None
        assert candidate is not None
        if track.taken is not None:
            track.interval = min(self._options.max_interval, track.interval * (2 - track.uncertainty))
        track.taken, track.taken_velocity = candidate.sighting.timestamp, track.velocity
        track.best = max(track.best, candidate.quality, _WORTHLESS)
        return candidate

    def _forget(self, stream: str) -> None:
        """Drop people who have left, except those whose first crop still waits within `give_up_after`."""
        now = self._clocks[stream]
        for key in [key for key, track in self._tracks.items() if key[0] == stream]:
            track = self._tracks[key]
            gone, first_waits = now - track.last, track.waiting is not None and track.taken is None
            kept = first_waits and (math.isinf(now) or gone <= self._lifetime.give_up_after)
            if gone > self._lifetime.leave_after and not kept:
                del self._tracks[key]

    def _bound(self) -> None:
        """Drop the waiting crops of the lowest gain if too many wait."""
        waiting = [track for track in self._tracks.values() if track.waiting]
        if len(waiting) > self._options.max_waiting:
            for track in sorted(waiting, key=self._gain)[: len(waiting) - self._options.max_waiting]:
                track.waiting = None


def uncertainty(person: Person) -> float:
    """Return the mean uncertainty of a person's attributes: 0 if all are certain, 1 if none is known."""
    doubts = [1 - abs(2 * attribute.probability - 1) for attribute in person.attributes.values()]
    return sum(doubts) / max(1, len(doubts))
