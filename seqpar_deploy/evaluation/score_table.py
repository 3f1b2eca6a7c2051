"""Text tables of scores."""

from __future__ import annotations

from collections.abc import Mapping

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.evaluation.metrics import AttributeMetrics, Metrics
from seqpar_deploy.vocab import LabelSet

OVERALL = {
    "ma": "mA",
    "accuracy": "Acc",
    "precision": "Prec",
    "recall": "Recall",
    "f1": "F1",
}  # the papers' column headings


def paper_scores(dataset: Dataset, *, published_files: bool) -> Mapping[str, float] | None:
    """Return SequencePAR's published scores in per cent if the data is the published test split, else None.

    A data set in the same format, for example a rendered one, has another name and therefore no published scores.
    """
    label_set = dataset.label_set
    return label_set.paper if published_files and (dataset.name, dataset.split) == (label_set.name, "test") else None


def format_attributes(metrics: Metrics, label_set: LabelSet) -> str:
    """Format a row per attribute, with scores in per cent. `-` marks a score without people to count."""
    names = [attribute.name for attribute in label_set.attributes]
    width = max(len("attribute"), *map(len, names))
    heading = f"{'attribute':<{width}}  {'yes':>6} {'known':>6} {'predicted':>9} "
    heading += f"{'recall+':>8} {'recall-':>8} {'mA':>7} {'F1':>7}"
    rows = [
        f"{name:<{width}}  {row.positives:>6} {row.known:>6} {row.predicted:>9} "
        + " ".join(f"{_per_cent(score):>{space}}" for score, space in zip(_scores(row), (8, 8, 7, 7), strict=True))
        for name, row in zip(names, metrics.attributes, strict=True)
    ]
    return "\n".join([heading, *rows])


def format_overall(metrics: Metrics, paper: Mapping[str, float] | None = None) -> str:
    """Format the overall scores in per cent, followed by the paper's if there are any."""
    heading = f"{'':<12}" + " ".join(f"{title:>7}" for title in OVERALL.values())
    rows = [heading, f"{'this model':<12}" + " ".join(f"{100 * getattr(metrics, name):>7.2f}" for name in OVERALL)]
    if paper:
        values = (paper.get(name) for name in OVERALL)
        rows.append(f"{'paper':<12}" + " ".join(f"{'-' if value is None else f'{value:.2f}':>7}" for value in values))
    return "\n".join(rows)


def recalls(row: AttributeMetrics) -> tuple[float | None, float | None]:
    """Return recall on yes and recall on no. A recall is None if no person has that label."""
    return row.recall_yes if row.positives else None, row.recall_no if row.known > row.positives else None


def _scores(row: AttributeMetrics) -> tuple[float | None, ...]:
    return *recalls(row), row.ma if row.known else None, row.f1 if row.positives or row.predicted else None


def _per_cent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.1f}"
