"""Aggregates the predictions of a track's crops into attributes, and emits events when they change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.thresholds import State
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.options import FusionOptions, LifetimeOptions
from seqpar_deploy.video.types import Attribute, Event, EventKind, Frame, Person, Sighting, TrackedBox
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet

_Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(slots=True)
class _Track:
    """State of a track. `weight` and `evidence` are sums over its crops, with one entry per attribute."""

    first: Sighting
    last: Sighting
    weight: _Floats
    evidence: _Floats  # weight times probability
    states: list[State]
    emitted: list[State]  # as of the latest event
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)
    crops: int = 0
    answered: float = 0.0  # timestamp of the latest crop
    best: Candidate | None = None
    trust: float = 0.0  # weight of the best crop
    left: bool = False


class AttributeFusion:
    """Aggregates tracked boxes and predictions to people and events. For one thread at a time."""

    def __init__(
        self,
        label_set: LabelSet,
        options: FusionOptions = FusionOptions(),
        lifetime: LifetimeOptions = LifetimeOptions(),
    ) -> None:
        self._label_set, self._options, self._lifetime = label_set, options, lifetime
        groups = [attribute.group for attribute in label_set.attributes]
        self._momentary = np.array([label_set.groups[group].momentary for group in groups])
        self._exclusive = [
            [place for place, group in enumerate(groups) if group == name]
            for name, group in label_set.groups.items()
            if group.exclusive
        ]
        self._streams: dict[str, dict[int, _Track]] = {}
        self.unrecognized = 0  # people discarded because no crop of them was recognised

    def observe(self, frame: Frame, boxes: Sequence[TrackedBox]) -> list[Event]:
        """Record a frame's people, and return the `ended` events of people who have left.

        Pass frames without people too, in order within their stream, because they advance the clock.
        """
        tracks = self._streams.setdefault(frame.stream, {})
        for tracked in boxes:
            track = tracks.get(tracked.track_id)
            sighting = Sighting(frame=frame.index, timestamp=frame.timestamp, box=tracked.box)
            if track is None:
                tracks[tracked.track_id] = self._new(sighting)
            else:
                track.last = sighting
                track.left = False
                self._fade(track)
        events = []
        for track_id, track in list(tracks.items()):
            gone = frame.timestamp - track.last.timestamp
            if gone > self._lifetime.leave_after:
                events += self.end(frame.stream, track_id)
            if track.crops == 0 and gone > self._lifetime.give_up_after:
                del tracks[track_id]
                self.unrecognized += 1
        return events

    def add(self, candidate: Candidate, prediction: Prediction) -> list[Event]:
        """Add a crop's prediction and return the events: appeared or changed, and ended if the person has left."""
        track = self._streams.get(candidate.stream, {}).get(candidate.track_id)
        if track is None:  # the track has ended
            return []
        self._learn(track, candidate, prediction)
        track.crops += 1
        track.answered = candidate.sighting.timestamp
        self._update(track)
        events = []
        if track.crops == 1 or track.states != track.emitted:
            kind: EventKind = "appeared" if track.crops == 1 else "changed"
            events.append(self._event(kind, candidate.stream, candidate.track_id))
        if track.left:
            events += self.end(candidate.stream, candidate.track_id)
        return events

    def end(self, stream: str, track_id: int) -> list[Event]:
        """End a track. A track without a prediction is kept until the first one arrives."""
        tracks = self._streams.get(stream, {})
        if track_id not in tracks:
            return []
        if tracks[track_id].crops == 0:
            tracks[track_id].left = True
            return []
        event = self._event("ended", stream, track_id)
        del tracks[track_id]
        return [event]

    def finish(self, stream: str) -> list[Event]:
        """End all tracks of a stream. Call it after the last prediction was added."""
        events = [event for track_id in list(self._streams.get(stream, {})) for event in self.end(stream, track_id)]
        self.unrecognized += len(self._streams.pop(stream, {}))
        return events

    def people(self, stream: str) -> dict[int, Person]:
        """Return the people who have attributes, by track ID."""
        tracks = self._streams.get(stream, {})
        return {track_id: self._person(stream, track_id) for track_id, track in tracks.items() if track.crops}

    def _new(self, sighting: Sighting) -> _Track:
        count = len(self._label_set)
        return _Track(
            first=sighting,
            last=sighting,
            weight=np.zeros(count),
            evidence=np.zeros(count),
            states=["unknown"] * count,
            emitted=["unknown"] * count,
        )

    def _learn(self, track: _Track, candidate: Candidate, prediction: Prediction) -> None:
        """Add a crop to the sums. Momentary attributes keep only the latest crop."""
        options = self._options
        trust = candidate.quality * confidence(prediction) ** 2
        if track.best is None or trust > track.trust:
            track.best, track.trust = candidate, trust
        probability = np.full(len(self._label_set), options.absent)
        weight = np.full(len(self._label_set), options.absent_weight * trust)
        for name, score in zip(prediction.attributes, prediction.scores, strict=True):
            place = self._label_set.token(name) - FIRST_ATTRIBUTE
            probability[place], weight[place] = score, trust
        kept = np.minimum(1.0, options.memory / np.maximum(track.weight, 1e-9))
        kept[self._momentary] = 0.0
        track.weight = kept * track.weight + weight
        track.evidence = kept * track.evidence + weight * probability

    def _fade(self, track: _Track) -> None:
        """Set momentary attributes to unknown some time after the latest crop. This alone emits no event."""
        if track.last.timestamp - track.answered > self._options.moment and track.weight[self._momentary].any():
            track.weight[self._momentary] = track.evidence[self._momentary] = 0.0
            track.states = [
                "unknown" if momentary else state
                for momentary, state in zip(self._momentary, track.states, strict=True)
            ]
            self._update(track)

    def _update(self, track: _Track) -> None:
        """Compute states and probabilities from the sums."""
        track.states = self._decide(track)
        track.attributes = {
            attribute.name: Attribute(state=state, probability=round(probability, 4))
            for attribute, state, probability in zip(
                self._label_set.attributes, track.states, self._probabilities(track).tolist(), strict=True
            )
        }

    def _event(self, kind: EventKind, stream: str, track_id: int) -> Event:
        track = self._streams[stream][track_id]
        names = (attribute.name for attribute in self._label_set.attributes)
        changed = tuple(name for name, old, new in zip(names, track.emitted, track.states, strict=True) if old != new)
        track.emitted = track.states
        return Event(kind=kind, person=self._person(stream, track_id), changed=changed)

    def _probabilities(self, track: _Track) -> _Floats:
        prior = self._options.prior_weight
        mean: _Floats = (track.evidence + prior * 0.5) / (track.weight + prior)
        return mean

    def _decide(self, track: _Track) -> list[State]:
        """Apply the thresholds with hysteresis. In an exclusive group at most one attribute is yes."""
        probabilities = self._probabilities(track)
        states = [self._state(p, old) for p, old in zip(probabilities.tolist(), track.states, strict=True)]
        for places in self._exclusive:
            claims = [place for place in places if states[place] == "yes"]
            if claims:
                # Only a clearly more probable attribute replaces one that is already yes.
                stay = self._options.sure - self._options.keep
                favour = {place: probabilities[place] + stay * (track.states[place] == "yes") for place in claims}
                chosen = max(claims, key=favour.__getitem__)
                for place in places:
                    states[place] = "yes" if place == chosen else "no"
        return states

    def _state(self, probability: float, old: State) -> State:
        sure, keep = self._options.sure, self._options.keep
        if probability >= sure or (old == "yes" and probability >= keep):
            return "yes"
        if probability <= 1 - sure or (old == "no" and probability <= 1 - keep):
            return "no"
        return "unknown"

    def _person(self, stream: str, track_id: int) -> Person:
        track = self._streams[stream][track_id]
        assert track.best is not None
        return Person(
            stream=stream,
            track_id=track_id,
            first=track.first,
            last=track.last,
            best=track.best.sighting,
            best_crop=track.best.crop,
            attributes=track.attributes,
            crops=track.crops,
        )


def confidence(prediction: Prediction) -> float:
    """Return the mean score of the emitted attributes, or 0.3 for an empty prediction. Low scores mean more errors."""
    return sum(prediction.scores) / len(prediction.scores) if prediction.scores else 0.3
