"""Which crops are worth recognising: those expected to change or settle what is believed, within a budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from seqpar_deploy.errors import VideoError
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.quality import MARGIN, cut_out, from_geometry, sharpness
from seqpar_deploy.video.types import Box, Frame, Person, TrackedBox


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A crop that waits for its turn, uint8 RGB (h, w, 3), and where it is from; `quality` from 0 to 1."""

    stream: str
    track: int
    frame: int
    seconds: float
    box: Box
    crop: Crop
    quality: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChooserOptions:
    """`max_crops_per_second` bounds the average over all streams; first answers may run into debt, which later crops
    pay. A person is answered at once if the crop has `good` quality, and otherwise, with the best crop so far,
    `max_latency` seconds after they appeared. The next answers come `refresh` seconds apart and then ever more rarely,
    twice as rarely each time where nothing is in doubt, up to `longest` seconds. Who is not seen for `patience` seconds
    has left, and is no longer waited for after `give_up`, as in FusionOptions. At most `max_waiting` crops wait.
    """

    max_crops_per_second: float = 10.0
    max_latency: float = 0.5
    good: float = 0.3
    refresh: float = 1.0
    longest: float = 30.0
    patience: float = 2.0
    give_up: float = 30.0
    margin: float = MARGIN
    max_waiting: int = 256

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least, words = (1e-3, "0.001 or more") if name in ("refresh", "longest") else (0, "0 or more")
            if not value >= least:
                raise VideoError(f"{name} is {value}, wanted {words}")


@dataclasses.dataclass(slots=True)
class _Track:
    """What the chooser remembers of a person. Seconds are of the stream."""

    first: float
    last: float
    interval: float
    asked: float | None = None  # when the last crop that was taken is from
    best: float = 0.0  # quality of the best crop taken
    uncertainty: float = 1.0
    place: complex = 0j  # of the box's centre, in pixels
    velocity: complex = 0j  # smoothed, in the person's heights per second
    asked_velocity: complex = 0j
    waiting: Candidate | None = None

    def move(self, box: Box, seconds: float) -> None:
        place = complex(box.left + box.right, box.top + box.bottom) / 2
        if (passed := seconds - self.last) > 0:
            velocity = (place - self.place) / max(1.0, box.bottom - box.top) / passed
            self.velocity += (1 - 0.5 ** (passed / _SMOOTHING)) * (velocity - self.velocity)
        self.place, self.last = place, seconds
        if abs(self.asked_velocity) < _STANDING:
            self.asked_velocity = self.velocity  # the first direction since

    def turned(self) -> float:
        """How far they have turned since the last crop that was taken, by the way they walk: 0 to 1 for right round."""
        now, then = self.velocity, self.asked_velocity
        if min(abs(now), abs(then)) < _STANDING:
            return 0.0
        return (1 - (now * then.conjugate()).real / (abs(now) * abs(then))) / 2


_HALF_LIFE = 1.0  # seconds in which a waiting crop is worth half
_MOST_BETTER = 2.0  # a better crop than any before is worth up to this much more
_WORTHLESS = 0.03  # quality of a crop that shows somebody else
_TURNED = 8.0  # somebody who turned right round is worth this much more, over again
_SMOOTHING = 0.5  # seconds in which half of a velocity is renewed
_STANDING = 0.1  # heights a second, below which no direction is seen
_START = 0.5  # of the gain a crop is taken at: from here on crops are collected
_MOST_DEBT = 10.0  # seconds of crops that first answers may be ahead; beyond that people are answered all the same
_OVERDUE, _FIRST = 1e6, 1e3  # gains of first answers, above all others


class Chooser:
    """Offers in, candidates out; at most one candidate a person, and the better one of the recent ones.

    Deterministic: the only clocks are the frames' and the one given to `take`. For one thread at a time.
    """

    def __init__(self, options: ChooserOptions | None = None) -> None:
        self.options = options or ChooserOptions()
        self._tracks: dict[tuple[str, int], _Track] = {}
        self._clocks: dict[str, float] = {}
        self._now = -math.inf
        self._allowance = self._most_allowance = max(1.0, self.options.max_crops_per_second)

    def offer(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """Everyone in a frame, in order within its stream; `people` by track, as far as they have attributes.

        Call it for frames without people too: it tells the time.
        """
        self._clocks[frame.stream] = frame.seconds
        for tracked in boxes:
            key = (frame.stream, tracked.track)
            track = self._tracks.get(key)
            if track is None:
                track = _Track(first=frame.seconds, last=frame.seconds, interval=self.options.refresh)
                self._tracks[key] = track
            track.move(tracked.box, frame.seconds)
            if (person := people.get(tracked.track)) is not None:
                track.uncertainty = uncertainty(person)
            others = [other.box for other in boxes if other is not tracked]
            self._consider(track, frame, tracked, others)
        self._forget(frame.stream)
        self._bound()

    def take(self, limit: int, now: float) -> list[Candidate]:
        """At most `limit` crops to recognise, those of most gain first. `now` in seconds, of any clock that does not
        go back, is what the crops per second are counted by."""
        if now > self._now:
            earned = (now - self._now) * self.options.max_crops_per_second if math.isfinite(self._now) else 0.0
            self._allowance = min(self._most_allowance, self._allowance + earned)
            self._now = now
        taken: list[Candidate] = []
        for track in sorted((track for track in self._tracks.values() if track.waiting), key=self._gain, reverse=True):
            gain = self._gain(track)
            if len(taken) == limit or gain < 1 or (self._allowance < 1 and gain < _FIRST):
                break
            self._allowance = max(-_MOST_DEBT * self.options.max_crops_per_second, self._allowance - 1)
            taken.append(self._take(track))
        for stream in {candidate.stream for candidate in taken}:
            self._forget(stream)
        return taken

    def finish(self, stream: str) -> None:
        """The stream ended: who was never answered is due now, the others are forgotten."""
        self._clocks[stream] = math.inf
        self._forget(stream)

    def forget(self, stream: str) -> None:
        """Whatever of it still waits is no longer waited for."""
        self._tracks = {key: track for key, track in self._tracks.items() if key[0] != stream}
        self._clocks.pop(stream, None)

    def _consider(self, track: _Track, frame: Frame, tracked: TrackedBox, others: Sequence[Box]) -> None:
        """Make this crop the waiting one if that is worth it. Most crops fail at what costs nothing."""
        box = tracked.box
        bar = self._worth(track)
        bound = from_geometry(box, others, frame.image.shape[:2])
        if bound <= max(bar, _WORTHLESS) or self._expected(track, bound) < _START:
            return
        crop = cut_out(frame.image, box, self.options.margin)
        quality = bound * sharpness(crop)
        if quality > bar:
            track.waiting = Candidate(
                stream=frame.stream,
                track=tracked.track,
                frame=frame.index,
                seconds=frame.seconds,
                box=box,
                crop=crop,
                quality=quality,
            )

    def _worth(self, track: _Track) -> float:
        """Quality of the waiting crop, less for its age: its person has moved on. Below 0 where none waits."""
        if track.waiting is None:
            return -1.0
        age = track.last - track.waiting.seconds
        return track.waiting.quality * math.pow(0.5, age / _HALF_LIFE)

    def _gain(self, track: _Track) -> float:
        """What the waiting crop is expected to tell; it is worth taking from 1 on."""
        assert track.waiting is not None
        if track.asked is None:
            waited = self._clocks[track.waiting.stream] - track.first
            if waited >= self.options.max_latency:
                return _OVERDUE + min(waited, _OVERDUE)
            return _FIRST + track.waiting.quality if track.waiting.quality >= self.options.good else 0.0
        return self._expected(track, track.waiting.quality)

    def _expected(self, track: _Track, quality: float) -> float:
        """What a crop of this quality would tell: the older the last answer, the better the crop, the further they have
        turned, the more."""
        if track.asked is None:
            return math.inf
        age = (track.last - track.asked) / track.interval
        return age * min(_MOST_BETTER, quality / track.best) * (1 + _TURNED * track.turned())

    def _take(self, track: _Track) -> Candidate:
        candidate, track.waiting = track.waiting, None
        assert candidate is not None
        if track.asked is not None:
            track.interval = min(self.options.longest, track.interval * (2 - track.uncertainty))
        track.asked, track.asked_velocity = candidate.seconds, track.velocity
        track.best = max(track.best, candidate.quality, _WORTHLESS)
        return candidate

    def _forget(self, stream: str) -> None:
        """Drop who left, but for those who wait for their first answer and have not waited in vain for too long."""
        seconds = self._clocks[stream]
        for key in [key for key, track in self._tracks.items() if key[0] == stream]:
            track = self._tracks[key]
            gone, hoped_for = seconds - track.last, track.waiting is not None and track.asked is None
            ended = math.isinf(seconds)
            if gone > self.options.patience and not (hoped_for and (ended or gone <= self.options.give_up)):
                del self._tracks[key]

    def _bound(self) -> None:
        """Drop the waiting crops of least gain where there are too many."""
        waiting = [track for track in self._tracks.values() if track.waiting]
        if len(waiting) > self.options.max_waiting:
            for track in sorted(waiting, key=self._gain)[: len(waiting) - self.options.max_waiting]:
                track.waiting = None


def uncertainty(person: Person) -> float:
    """Of what is believed of somebody: 0 where every attribute is sure, 1 where nothing is known."""
    doubts = [1 - abs(2 * attribute.probability - 1) for attribute in person.attributes.values()]
    return sum(doubts) / max(1, len(doubts))
