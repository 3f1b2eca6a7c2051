"""Scores the attributes of labelled tracks, for video_ablation.py and street.py."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import log_odds
from seqpar_deploy.datasets.base import UNKNOWN, Labels
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.video.attribute_fusion import AttributeFusion
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.options import FusionOptions
from seqpar_deploy.video.quality import cut_out, quality
from seqpar_deploy.video.types import Attribute, Frame, Person, Sighting, TrackedBox
from seqpar_deploy.vocab import LabelSet

SPLITS = ("held_out", "train")
VIEWS = {"front": "Front", "side": "Side", "back": "Back"}
BINS = 15  # of the expected calibration error

Scene = list[tuple[Frame, list[TrackedBox], dict[int, str]]]  # frame, boxes, and labelled views by track
Answers = dict[tuple[int, int], Prediction]  # of (track, frame)
Said = npt.NDArray[np.bool_]
Take = Callable[[Frame, list[TrackedBox], dict[int, Person]], list[Candidate]]


def candidate(frame: Frame, tracked: TrackedBox, boxes: list[TrackedBox]) -> Candidate:
    crop = cut_out(frame.image, tracked.box)
    others = [other.box for other in boxes if other is not tracked]
    return Candidate(
        stream=frame.stream,
        track_id=tracked.track_id,
        sighting=Sighting(frame=frame.index, timestamp=frame.timestamp, box=tracked.box),
        crop=crop,
        quality=quality(crop, tracked.box, others, frame.image.shape[:2]),
    )


class Judge:
    """Runs a policy and scores the attributes of each labelled track at its end."""

    def __init__(
        self, label_set: LabelSet, labels: dict[int, Labels], splits: dict[int, str], answers: Answers
    ) -> None:
        self._label_set, self._labels, self._splits, self._answers = label_set, labels, splits, answers
        self._of: dict[int, list[Prediction]] = defaultdict(list)  # predictions of each track
        for (track, _), prediction in answers.items():
            self._of[track].append(prediction)
        # Mean F1 of single crops: of the emitted attributes, and of those of probability 0.5 or more.
        self._mean_crop = {
            t: statistics.mean(self._f1(self._encode(p.attributes), t) for p in self._of[t]) for t in labels
        }
        self._mean_probable = {
            t: statistics.mean(self._f1(p.probabilities >= 0.5, t) for p in self._of[t]) for t in labels
        }

    def single(self, scene: Scene, split: str) -> dict[str, float]:
        """Return F1 of single crops (mean over boxes, then tracks) and of each track's best crop."""
        scores, best, cells = [], [], []
        for track in self._tracks(split):
            crops = [candidate(f, t, boxes) for f, boxes, _ in scene for t in boxes if t.track_id == track]
            f1 = [self._f1(self._said(crop), track) for crop in crops]
            scores.append(statistics.mean(f1))
            best.append(f1[max(range(len(crops)), key=lambda place: crops[place].quality)])
            cells += [(one.probabilities, self._labels[track]) for one in self._of[track]]
        return {
            "f1_mean_crop": round(statistics.mean(scores), 4),
            "f1_mean_crop_probable": round(statistics.mean(self._mean_probable[t] for t in self._tracks(split)), 4),
            "f1_best_quality": round(statistics.mean(best), 4),
            "ece": round(ece(cells), 4),
        }

    def correlation(self, split: str) -> float:
        """Return the intraclass correlation of the crops' limited log-odds, given attribute and label."""
        most = FusionOptions().crop_limit
        tracks = self._tracks(split)
        rows = {t: log_odds(np.clip([one.probabilities for one in self._of[t]], 1 - most, most)) for t in tracks}
        between, within = [], []
        for value, attribute in np.ndindex(2, len(self._label_set)):
            cells = [rows[t][:, attribute] for t in tracks if self._labels[t][attribute] == value]
            if len(cells) < 2:
                continue
            centre = statistics.mean(cell.mean() for cell in cells)
            for cell in cells:
                spread = cell.var(ddof=1)
                within.append(spread)
                between.append((cell.mean() - centre) ** 2 * len(cells) / (len(cells) - 1) - spread / len(cell))
        return round(float(np.sum(between) / (np.sum(between) + np.sum(within))), 4)

    def run(self, scene: Scene, take: Take, fusion: AttributeFusion) -> dict[str, Any]:
        ended: dict[int, Person] = {}
        calls: dict[int, list[Candidate]] = defaultdict(list)
        first: dict[int, float] = {}
        views: dict[str, int] = defaultdict(int)
        changes: dict[int, int] = defaultdict(int)
        lasting: dict[int, int] = defaultdict(int)  # changes of more than the view
        spent = 0.0
        for frame, boxes, labelled in scene:
            events = fusion.observe(frame, boxes)
            start = time.process_time()
            chosen = take(frame, boxes, fusion.people(frame.stream))
            spent += time.process_time() - start
            for one in chosen:
                calls[one.track_id].append(one)
                events += fusion.add(one, self._answers[one.track_id, one.sighting.frame])
            for event in events:
                if event.kind == "appeared":
                    first[event.person.track_id] = frame.timestamp - event.person.first.timestamp
                if event.kind == "ended":
                    ended[event.person.track_id] = event.person
                if event.kind == "changed":
                    changes[event.person.track_id] += 1
                    lasting[event.person.track_id] += not set(event.changed) <= set(VIEWS.values())
            people = fusion.people(frame.stream)
            for track, view in labelled.items():
                if self._splits.get(track) == "held_out":
                    views[held_view(people.get(track), VIEWS[view])] += 1
        ended |= {event.person.track_id: event.person for event in fusion.finish("vtest")}
        return {
            "calls": sum(map(len, calls.values())),
            "people_covered": len(ended),
            "seconds_to_first_median": statistics.median(first.values()),
            "seconds_to_first_max": max(first.values()),
            "changed_events": sum(changes.values()),
            "view_held_out": dict(views),
            "milliseconds_per_frame": round(1e3 * spent / len(scene), 3),
            **{
                split: self._score(split, ended, calls)
                | {
                    "changed_events_per_track": statistics.mean(changes[t] for t in self._tracks(split)),
                    "changed_events_besides_views_per_track": statistics.mean(lasting[t] for t in self._tracks(split)),
                }
                for split in SPLITS
            },
        }

    def _score(self, split: str, ended: dict[int, Person], calls: dict[int, list[Candidate]]) -> dict[str, float]:
        tracks = self._tracks(split)
        guess = {t: self._values(ended[t], lambda a: a.probability >= 0.5) for t in tracks}
        yes = {t: self._values(ended[t], lambda a: a.state == "yes") for t in tracks}
        decided = {t: self._values(ended[t], lambda a: a.state != "unknown") for t in tracks}
        known = {t: self._labels[t] != UNKNOWN for t in tracks}
        wrong = sum(((yes[t] != self._labels[t]) & decided[t] & known[t]).sum() for t in tracks)
        count = sum(len(calls[t]) for t in tracks)
        f1 = statistics.mean(self._f1(guess[t], t) for t in tracks)
        return {
            "calls": count,
            "f1_mean_chosen_crop": mean_of_means([[self._f1(self._said(c), t) for c in calls[t]] for t in tracks]),
            "f1_fused": round(f1, 4),
            "f1_unknown_as_no": round(statistics.mean(self._f1(yes[t], t) for t in tracks), 4),
            "f1_decided": round(statistics.mean(self._f1(yes[t], t, decided[t]) for t in tracks), 4),
            "share_decided": round(
                float(sum((decided[t] & known[t]).sum() for t in tracks) / sum(known[t].sum() for t in tracks)), 4
            ),
            "decided_wrong": int(wrong),
            "f1_per_call": round(f1 / count, 5),
            "ece": round(ece([(self._probabilities(ended[t]), self._labels[t]) for t in tracks]), 4),
            "tracks_below_chosen_crops": sum(
                self._f1(guess[t], t) < statistics.mean(self._f1(self._said(c), t) for c in calls[t]) - 1e-9
                for t in tracks
            ),
            "tracks_below_mean_crop": sum(self._f1(guess[t], t) < self._mean_crop[t] - 1e-9 for t in tracks),
            "tracks_below_mean_crop_probable": sum(
                self._f1(guess[t], t) < self._mean_probable[t] - 1e-9 for t in tracks
            ),
            "f1_of_each_track": {str(t): round(self._f1(guess[t], t), 4) for t in tracks},
        }

    def _probabilities(self, person: Person) -> npt.NDArray[np.float64]:
        return np.array([person.attributes[attribute.name].probability for attribute in self._label_set.attributes])

    def _tracks(self, split: str) -> list[int]:
        return [track for track, of in self._splits.items() if of == split]

    def _said(self, one: Candidate) -> Said:
        return self._encode(self._answers[one.track_id, one.sighting.frame].attributes)

    def _encode(self, names: tuple[str, ...]) -> Said:
        return encode(self._label_set, names)

    def _values(self, person: Person, of: Callable[[Attribute], bool]) -> Said:
        return values(self._label_set, person, of)

    def _f1(self, said: Said, track: int, among: Said | None = None) -> float:
        return f1(said, self._labels[track], among)


def encode(label_set: LabelSet, names: tuple[str, ...]) -> Said:
    """Return the attributes of a prediction, (n,) in the label set's order."""
    return np.array([attribute.name in names for attribute in label_set.attributes])


def values(label_set: LabelSet, person: Person, of: Callable[[Attribute], bool]) -> Said:
    """Return the attributes of a person, (n,) in the label set's order."""
    return np.array([of(person.attributes[attribute.name]) for attribute in label_set.attributes])


def f1(said: Said, labels: Labels, among: Said | None = None) -> float:
    """Return F1 of one person's labelled attributes, or of those in `among`."""
    counted = labels if among is None else np.where(among, labels, UNKNOWN)
    return compute_metrics(said[None], counted[None]).f1 if (counted != UNKNOWN).any() else 0.0


def ece(cells: list[tuple[npt.NDArray[np.floating], Labels]]) -> float:
    """Return the expected calibration error over the labelled attributes of (probabilities, labels), each (n,)."""
    probabilities = np.concatenate([found[labels != UNKNOWN] for found, labels in cells])
    yes = np.concatenate([labels[labels != UNKNOWN] == 1 for _, labels in cells])
    places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(places, probabilities - yes, minlength=BINS)
    return float(np.abs(gaps).sum() / len(yes))


def mean(runs: list[Any]) -> Any:
    """Return the mean of results of one structure."""
    if isinstance(runs[0], dict):
        return {key: mean([run.get(key, 0) for run in runs]) for key in {key: None for run in runs for key in run}}
    return round(statistics.mean(runs), 4)


def held_view(person: Person | None, label: str) -> str:
    if person is None:
        return "not answered"
    held = [view for view in VIEWS.values() if person.attributes[view].state == "yes"]
    return ("right" if held[0] == label else "wrong") if held else "unknown"


def mean_of_means(values: list[list[float]]) -> float:
    return round(statistics.mean(statistics.mean(row) for row in values if row), 4)
