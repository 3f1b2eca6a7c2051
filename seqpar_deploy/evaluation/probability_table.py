"""Text tables of the scores of probabilities and states."""

from __future__ import annotations

from seqpar_deploy.evaluation.bootstrap import Estimate
from seqpar_deploy.evaluation.probability_metrics import LEAST_LABELS, ProbabilityMetrics
from seqpar_deploy.vocab import LabelSet

_TITLES = {
    "auc": "AUC (mean)",
    "average_precision": "AP (mean)",
    "ece": "ECE",
    "brier": "Brier",
    "nll": "NLL",
    "coverage": "coverage",
    "error": "error among decided",
}


def format_probabilities(metrics: ProbabilityMetrics, *, calibrated: bool) -> str:
    """Format the scores over all attributes, with their 95 % bootstrap intervals."""
    heading = f"probabilities, {'calibrated' if calibrated else 'not calibrated'} (95 % bootstrap interval)"
    counted = sum(min(one.positives, one.negatives) >= LEAST_LABELS for one in metrics.attributes)
    rows = [f"  {title:<20} {_interval(getattr(metrics, name))}" for name, title in _TITLES.items()]
    note = f"  means over {counted} attributes with at least {LEAST_LABELS} people of either label"
    return "\n".join([heading, *rows, note])


def format_attribute_probabilities(metrics: ProbabilityMetrics, label_set: LabelSet) -> str:
    """Format a row per attribute: AUC, AP and ECE, and coverage and error in per cent. `-` marks undefined scores."""
    names = [attribute.name for attribute in label_set.attributes]
    width = max(len("attribute"), *map(len, names))
    heading = (
        f"{'attribute':<{width}}  {'yes':>6} {'no':>6} {'AUC':>7} {'AP':>7} {'ECE':>7} {'decided':>8} {'error':>7}"
    )
    rows = [
        f"{name:<{width}}  {row.positives:>6} {row.negatives:>6} {_number(row.auc):>7} "
        f"{_number(row.average_precision):>7} {_number(row.ece):>7} {_per_cent(row.coverage):>8} "
        f"{_per_cent(row.error):>7}"
        for name, row in zip(names, metrics.attributes, strict=True)
    ]
    return "\n".join([heading, *rows])


def _interval(one: Estimate | None) -> str:
    if one is None or one.value is None:
        return f"{'-':>7}"
    return f"{one.value:>7.4f}   {one.low:.4f} to {one.high:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _per_cent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
