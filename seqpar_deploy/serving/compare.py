"""Compare the predictions of two bundles on the same crops, before the new one replaces the old one."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import LabelSetError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import LabelSet

KEPT = 100  # crops that changed most, with their pictures


class Predicts(Protocol):
    """A `Recognizer`, or what predicts as one does."""

    def predict(self, crops: Sequence[Crop], /) -> list[Prediction]:
        """Return one prediction per crop."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributeChange:
    """Hold how the predictions of one attribute differ.

    Attributes:
        name: The attribute.
        agreement: Share of the crops with the same state, 0 to 1.
        old_yes: Crops whose state is `yes` with the old bundle.
        new_yes: Crops whose state is `yes` with the new bundle.
        mean_change: Mean absolute difference of the probabilities, 0 to 1.
        largest_change: Largest absolute difference of the probabilities, 0 to 1.
    """

    name: str
    agreement: float
    old_yes: int
    new_yes: int
    mean_change: float
    largest_change: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChangedCrop:
    """Hold a crop whose predictions differ.

    Attributes:
        name: Name of the crop.
        crop: The picture, uint8 RGB (h, w, 3).
        states: The attributes whose states differ.
        largest_change: Largest absolute difference of a probability, 0 to 1.
        old: Prediction of the old bundle.
        new: Prediction of the new bundle.
    """

    name: str
    crop: Crop = dataclasses.field(repr=False, compare=False)
    states: tuple[str, ...]
    largest_change: float
    old: Prediction
    new: Prediction


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleComparison:
    """Hold the result of a comparison.

    Attributes:
        crops: Crops compared.
        agreement: Share of all states that are the same, 0 to 1.
        sequences_differ: Crops whose tokens differ.
        states_differ: Crops with a state that differs.
        attributes: The attributes, in the label set's order.
        changed: The crops that changed most, at most `KEPT`: those with most states that differ, and then with the
            largest change of a probability.
    """

    crops: int
    agreement: float
    sequences_differ: int
    states_differ: int
    attributes: tuple[AttributeChange, ...]
    changed: tuple[ChangedCrop, ...]

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values, without pictures."""
        return {
            "crops": self.crops,
            "agreement": self.agreement,
            "sequences_differ": self.sequences_differ,
            "states_differ": self.states_differ,
            "attributes": [dataclasses.asdict(attribute) for attribute in self.attributes],
            "changed": [
                {
                    "name": one.name,
                    "states": list(one.states),
                    "largest_change": one.largest_change,
                    "old_tokens": list(one.old.tokens),
                    "new_tokens": list(one.new.tokens),
                }
                for one in self.changed
            ],
        }


def check_same_attributes(old: LabelSet, new: LabelSet) -> None:
    """Raise LabelSetError unless two label sets have the same attributes in the same order."""
    names = [[attribute.name for attribute in each.attributes] for each in (old, new)]
    for place, (one, other) in enumerate(itertools.zip_longest(*names)):
        if one != other:
            got = [f"{each.name} ({len(each)})" for each in (old, new)]
            raise LabelSetError(
                f"both bundles must have the same attributes, got {got[0]} and {got[1]}, where attribute {place + 1} "
                f"is {one or 'missing'} and {other or 'missing'}; compare bundles of one label set"
            )


class Comparer:
    """Collects the predictions of two bundles, batch by batch.

    Memory does not grow with the number of crops: only the crops that changed most are kept.

    Args:
        label_set: The label set of both bundles.
    """

    def __init__(self, label_set: LabelSet) -> None:
        self._names = [attribute.name for attribute in label_set.attributes]
        self._crops = self._sequences = self._states = 0
        self._same, self._old_yes, self._new_yes = (np.zeros(len(label_set), np.int64) for _ in range(3))
        self._sum, self._largest = np.zeros(len(label_set)), np.zeros(len(label_set))
        self._changed: list[tuple[tuple[int, float, int], ChangedCrop]] = []  # a heap, the least changed first

    def add(self, names: Sequence[str], crops: Sequence[Crop], old: list[Prediction], new: list[Prediction]) -> None:
        """Add the predictions of a batch of crops, one per crop each."""
        if not crops:
            return
        before, after = (np.array([one.states for one in some]) for some in (old, new))
        change = np.abs(_probabilities(new) - _probabilities(old))
        differ = before != after
        self._same += (~differ).sum(axis=0)
        self._old_yes += (before == "yes").sum(axis=0)
        self._new_yes += (after == "yes").sum(axis=0)
        self._sum += change.sum(axis=0)
        self._largest = np.maximum(self._largest, change.max(axis=0))
        self._states += int(differ.any(axis=1).sum())
        for row, (name, crop, one, other) in enumerate(zip(names, crops, old, new, strict=True)):
            self._crops += 1
            self._sequences += one.tokens != other.tokens
            states = tuple(self._names[i] for i in np.flatnonzero(differ[row]))
            most = float(change[row].max())
            if states or most > 0:
                found = ChangedCrop(name=name, crop=crop, states=states, largest_change=most, old=one, new=other)
                heapq.heappush(self._changed, ((len(states), most, -self._crops), found))
            if len(self._changed) > KEPT:
                heapq.heappop(self._changed)

    def result(self) -> BundleComparison:
        """Return the comparison of all crops so far."""
        count = max(1, self._crops)
        attributes = tuple(
            AttributeChange(
                name=name,
                agreement=float(self._same[i] / count) if self._crops else 1.0,
                old_yes=int(self._old_yes[i]),
                new_yes=int(self._new_yes[i]),
                mean_change=float(self._sum[i] / count),
                largest_change=float(self._largest[i]),
            )
            for i, name in enumerate(self._names)
        )
        return BundleComparison(
            crops=self._crops,
            agreement=statistics.fmean(attribute.agreement for attribute in attributes),
            sequences_differ=self._sequences,
            states_differ=self._states,
            attributes=attributes,
            changed=tuple(found for _, found in sorted(self._changed, key=lambda entry: entry[0], reverse=True)),
        )


def _probabilities(predictions: Sequence[Prediction]) -> npt.NDArray[np.float64]:
    return np.array([one.probabilities for one in predictions], np.float64)


def measure_speed(
    recognizers: Sequence[Predicts],
    crops: Sequence[Crop],
    *,
    runs: int = 5,
    on_progress: OnProgress = lambda _done, _total: None,
) -> list[float]:
    """Measure recognizers in turns, so that a change of the machine's load affects all of them.

    Args:
        recognizers: The recognizers. Each predicts once before it is timed.
        crops: The crops of each run, 1 or more.
        runs: Runs of each recognizer, 1 or more. Default: 5.
        on_progress: Called with the runs done and their number. Default: nothing.

    Returns:
        The median crops per second of each.
    """
    for recognizer in recognizers:
        recognizer.predict(crops)
    taken: list[list[float]] = [[] for _ in recognizers]
    for run in range(runs):
        order = range(len(recognizers)) if run % 2 == 0 else reversed(range(len(recognizers)))
        for place in order:
            start = time.perf_counter()
            recognizers[place].predict(crops)
            taken[place].append(time.perf_counter() - start)
        on_progress(run + 1, runs)
    return [len(crops) / statistics.median(seconds) for seconds in taken]
