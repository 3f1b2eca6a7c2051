"""What trimming costs a model that was made for crops with all their padding: scores with and without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Generation
from seqpar_deploy.evaluation.bootstrap import Estimate
from seqpar_deploy.evaluation.generate import attributes_of
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics
from seqpar_deploy.evaluation.paired import PairedDifference, paired_difference
from seqpar_deploy.evaluation.score_table import OVERALL


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrimmingCost:
    """Compare a model with all padding and the same model with trimmed crops, on the same people.

    Attributes:
        people: Number of people.
        full: Scores with all padding.
        trimmed: Scores with trimmed crops.
        difference: Differences of mA and F1, trimmed minus full, with paired intervals.
        changed: People whose sequence changes.
        attributes_changed: People whose set of attributes changes.
    """

    people: int
    full: Metrics
    trimmed: Metrics
    difference: PairedDifference
    changed: int
    attributes_changed: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the scores per attribute."""
        values = dataclasses.asdict(self)
        del values["full"]["attributes"], values["trimmed"]["attributes"]
        return values

    def text(self) -> str:
        """Return a table of the scores in per cent, and the sequences that change."""
        lines = [f"{'':<12}" + " ".join(f"{title:>7}" for title in OVERALL.values())]
        for name, metrics in (("all padding", self.full), ("trimmed", self.trimmed)):
            lines.append(f"{name:<12}" + " ".join(f"{100 * getattr(metrics, key):>7.2f}" for key in OVERALL))
        lines.append(
            f"trimming changes mA by {_points(self.difference.ma)} and F1 by {_points(self.difference.f1)} points"
            " (95 % intervals)"
        )
        lines.append(
            f"{self.changed} of {self.people} sequences change, {self.attributes_changed} of them in their attributes"
        )
        return "\n".join(lines)


def trimming_cost(dataset: Dataset, full: Sequence[Generation], trimmed: Sequence[Generation]) -> TrimmingCost:
    """Compare the sequences of a model with all padding and with trimmed crops. See `TrimmingCost`."""
    attributes = len(dataset.label_set)
    before, after = attributes_of(full, attributes), attributes_of(trimmed, attributes)
    return TrimmingCost(
        people=len(dataset),
        full=compute_metrics(before, dataset.labels),
        trimmed=compute_metrics(after, dataset.labels),
        difference=paired_difference(before, after, dataset.labels, groups=dataset.groups),
        changed=sum(a.tokens != b.tokens for a, b in zip(full, trimmed, strict=True)),
        attributes_changed=int((before != after).any(axis=1).sum()),
    )


def _points(one: Estimate) -> str:
    if one.value is None or one.low is None or one.high is None:
        return "-"
    return f"{100 * one.value:+.2f} ({100 * one.low:+.2f} to {100 * one.high:+.2f})"
