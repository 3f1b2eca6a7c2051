"""What is believed of a person, from all the crops of them that were recognised."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import VideoError
from seqpar_deploy.recognizer import Prediction
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.types import Attribute, Box, Event, EventKind, Frame, Person, State, TrackedBox
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet

_Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """How crops add up to a belief.

    An attribute's probability is the mean of what its crops say, weighted by their quality and the model's confidence:
    the score if it was emitted, `absent` if it was not. That it was not emitted counts less, by `absent_weight`: often
    it is only not to be seen in this crop. `prior_weight` is the weight of not knowing (0.5): few and poor crops leave
    things unknown. `memory` is the most that old crops weigh together, so that newer ones can still change a
    belief. Of momentary attributes only the latest crop counts, for `moment` seconds.

    It becomes yes at the probability `sure` and no at `1 - sure`, and stays so until the probability has crossed
    `1 - keep` (or `keep`). A person not seen for `patience` seconds has left; one who was never answered is
    given up after `give_up`.
    """

    absent: float = 0.05
    absent_weight: float = 0.4
    prior_weight: float = 0.1
    memory: float = 10.0
    moment: float = 2.0
    sure: float = 0.6
    keep: float = 0.5
    patience: float = 2.0
    give_up: float = 30.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value >= 0:
                raise VideoError(f"{name} is {value}, wanted 0 or more")
        if not self.prior_weight:
            raise VideoError("prior_weight is 0, wanted more: what nobody said anything of is unknown")
        if not max(0.5, self.keep) <= self.sure <= 1:
            raise VideoError(f"sure is {self.sure} and keep {self.keep}; wanted sure from 0.5 to 1, and keep no larger")


@dataclasses.dataclass(slots=True)
class _Track:
    """Sums over crops, one entry an attribute: of weight, and of weight times probability."""

    first_frame: int
    first_seconds: float
    last_frame: int
    last_seconds: float
    box: Box
    weight: _Floats
    evidence: _Floats
    states: list[State]
    told: list[State]  # in the last event
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)
    crops: int = 0
    answered: float = 0.0  # seconds of the latest crop
    best: Candidate | None = None
    trust: float = 0.0  # of the best
    left: bool = False


class Fusion:
    """Tracked boxes and predictions in, people and events out. For one thread at a time."""

    def __init__(self, label_set: LabelSet, options: FusionOptions | None = None) -> None:
        self.label_set = label_set
        self.options = options or FusionOptions()
        groups = [attribute.group for attribute in label_set.attributes]
        self._momentary = np.array([label_set.groups[group].momentary for group in groups])
        self._exclusive = [
            [place for place, group in enumerate(groups) if group == name]
            for name, group in label_set.groups.items()
            if group.exclusive
        ]
        self._streams: dict[str, dict[int, _Track]] = {}
        self.unanswered = 0  # people who were given up

    def seen(self, frame: Frame, boxes: Sequence[TrackedBox]) -> list[Event]:
        """Who is in a frame, in order within its stream; call it for empty frames too. Gives who has left."""
        tracks = self._streams.setdefault(frame.stream, {})
        for tracked in boxes:
            track = tracks.get(tracked.track)
            if track is None:
                tracks[tracked.track] = self._new(frame, tracked.box)
            else:
                track.last_frame, track.last_seconds, track.box = frame.index, frame.seconds, tracked.box
                track.left = False
                self._fade(track)
        events = []
        for number, track in list(tracks.items()):
            if frame.seconds - track.last_seconds > self.options.patience:
                events += self.end(frame.stream, number)
            if track.crops == 0 and frame.seconds - track.last_seconds > self.options.give_up:
                del tracks[number]
                self.unanswered += 1
        return events

    def add(self, candidate: Candidate, prediction: Prediction) -> list[Event]:
        """What the model said of a crop. Gives the first attributes or a change of them, or nothing; and the end if the
        person has left meanwhile, unanswered."""
        track = self._streams.get(candidate.stream, {}).get(candidate.track)
        if track is None:  # left, and the end was told
            return []
        self._learn(track, candidate, prediction)
        track.crops += 1
        track.answered = candidate.seconds
        self._believe(track)
        events = []
        if track.crops == 1 or track.states != track.told:
            kind: EventKind = "appeared" if track.crops == 1 else "changed"
            events.append(self._event(kind, candidate.stream, candidate.track))
        if track.left:
            events += self.end(candidate.stream, candidate.track)
        return events

    def end(self, stream: str, track: int) -> list[Event]:
        """Somebody left. Who was not answered yet stays until their answer comes."""
        tracks = self._streams.get(stream, {})
        if track not in tracks:
            return []
        if tracks[track].crops == 0:
            tracks[track].left = True
            return []
        event = self._event("ended", stream, track)
        del tracks[track]
        return [event]

    def finish(self, stream: str) -> list[Event]:
        """The stream ended, and every answer is in: everyone leaves."""
        events = [event for track in list(self._streams.get(stream, {})) for event in self.end(stream, track)]
        self.unanswered += len(self._streams.pop(stream, {}))
        return events

    def people(self, stream: str) -> dict[int, Person]:
        """Who has attributes, by track."""
        tracks = self._streams.get(stream, {})
        return {number: self._person(stream, number) for number, track in tracks.items() if track.crops}

    def _new(self, frame: Frame, box: Box) -> _Track:
        count = len(self.label_set)
        return _Track(
            first_frame=frame.index,
            first_seconds=frame.seconds,
            last_frame=frame.index,
            last_seconds=frame.seconds,
            box=box,
            weight=np.zeros(count),
            evidence=np.zeros(count),
            states=["unknown"] * count,
            told=["unknown"] * count,
        )

    def _learn(self, track: _Track, candidate: Candidate, prediction: Prediction) -> None:
        """Add a crop to the sums. Of momentary attributes only the latest crop counts."""
        options = self.options
        trust = candidate.quality * confidence(prediction) ** 2
        if track.best is None or trust > track.trust:
            track.best, track.trust = candidate, trust
        said = np.full(len(self.label_set), options.absent)
        weight = np.full(len(self.label_set), options.absent_weight * trust)
        for name, score in zip(prediction.attributes, prediction.scores, strict=True):
            place = self.label_set.token(name) - FIRST_ATTRIBUTE
            said[place], weight[place] = score, trust
        kept = np.minimum(1.0, options.memory / np.maximum(track.weight, 1e-9))
        kept[self._momentary] = 0.0
        track.weight = kept * track.weight + weight
        track.evidence = kept * track.evidence + weight * said

    def _fade(self, track: _Track) -> None:
        """Momentary attributes are unknown some time after the crop that showed them. That alone is no event."""
        if track.last_seconds - track.answered > self.options.moment and track.weight[self._momentary].any():
            track.weight[self._momentary] = track.evidence[self._momentary] = 0.0
            track.states = [
                "unknown" if momentary else state
                for momentary, state in zip(self._momentary, track.states, strict=True)
            ]
            self._believe(track)

    def _believe(self, track: _Track) -> None:
        """From the sums to attributes."""
        track.states = self._decide(track)
        track.attributes = {
            attribute.name: Attribute(state=state, probability=round(probability, 4))
            for attribute, state, probability in zip(
                self.label_set.attributes, track.states, self._probabilities(track).tolist(), strict=True
            )
        }

    def _event(self, kind: EventKind, stream: str, number: int) -> Event:
        track = self._streams[stream][number]
        names = (attribute.name for attribute in self.label_set.attributes)
        changed = tuple(name for name, old, new in zip(names, track.told, track.states, strict=True) if old != new)
        track.told = track.states
        return Event(kind=kind, person=self._person(stream, number), changed=changed)

    def _probabilities(self, track: _Track) -> _Floats:
        prior = self.options.prior_weight
        mean: _Floats = (track.evidence + prior * 0.5) / (track.weight + prior)
        return mean

    def _decide(self, track: _Track) -> list[State]:
        """Yes, no or unknown, kept until the probability has clearly moved; of an exclusive group one yes at most."""
        probabilities = self._probabilities(track)
        states = [self._state(p, old) for p, old in zip(probabilities.tolist(), track.states, strict=True)]
        for places in self._exclusive:
            claims = [place for place in places if states[place] == "yes"]
            if claims:
                # Who is yes already gives way only to what is clearly more probable.
                stay = self.options.sure - self.options.keep
                favour = {place: probabilities[place] + stay * (track.states[place] == "yes") for place in claims}
                chosen = max(claims, key=favour.__getitem__)
                for place in places:
                    states[place] = "yes" if place == chosen else "no"
        return states

    def _state(self, probability: float, old: State) -> State:
        sure, keep = self.options.sure, self.options.keep
        if probability >= sure or (old == "yes" and probability >= keep):
            return "yes"
        if probability <= 1 - sure or (old == "no" and probability <= 1 - keep):
            return "no"
        return "unknown"

    def _person(self, stream: str, number: int) -> Person:
        track = self._streams[stream][number]
        assert track.best is not None
        return Person(
            stream=stream,
            track=number,
            first_seconds=track.first_seconds,
            last_seconds=track.last_seconds,
            first_frame=track.first_frame,
            last_frame=track.last_frame,
            box=track.box,
            attributes=track.attributes,
            crops=track.crops,
            best=track.best.crop,
            best_frame=track.best.frame,
            best_seconds=track.best.seconds,
            best_box=track.best.box,
        )


def confidence(prediction: Prediction) -> float:
    """Mean score of what was emitted: a model that hesitates is wrong more often. Nothing emitted is worth little."""
    return sum(prediction.scores) / len(prediction.scores) if prediction.scores else 0.3
