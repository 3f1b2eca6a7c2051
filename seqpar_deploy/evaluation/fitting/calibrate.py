"""Calibrate a model on labelled people: run it, fit maps, choose thresholds, and report on people held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import Floats
from seqpar_deploy.calibration.probabilities import attribute_probabilities
from seqpar_deploy.calibration.sidecar import BINS, AttributeCalibration, Calibration, FittingData
from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Generation, Greedy
from seqpar_deploy.errors import CalibrationError, DatasetError, SeqparError
from seqpar_deploy.evaluation.fitting.data import groups_of, hash_of_data
from seqpar_deploy.evaluation.fitting.maps import LEAST, FittedMaps, Labels, fit_maps
from seqpar_deploy.evaluation.fitting.report import Report, hold_out, make_report
from seqpar_deploy.evaluation.fitting.thresholds import Rule, choose_thresholds
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate
from seqpar_deploy.progress import Progress, silent
from seqpar_deploy.vocab import LabelSet

_LEAST_GROUPS = 3  # one is held out, and the shrinkage is selected by holding out one of the others


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated:
    """Hold the result of `calibrate_model`.

    Attributes:
        calibration: The calibration, to be written by `save_calibration`.
        thresholds: Its thresholds.
        report: Its report on people held out.
        notes: What a reader must know, a sentence each.
        unreadable: The error of each person who was left out because the picture cannot be read, by row.
        labels: Labels of the people who were not, int8 (M, n).
    """

    calibration: Calibration
    thresholds: Thresholds
    report: Report
    notes: tuple[str, ...]
    unreadable: Mapping[int, SeqparError]
    labels: Labels


def check_data(dataset: Dataset) -> None:
    """Check that a calibration can be fitted, before the model runs.

    Args:
        dataset: The people.

    Raises:
        CalibrationError: There are no labels, too few of them, or fewer than three groups.
    """
    where = f"{dataset.name} {dataset.split}"
    yes, no = (int((dataset.labels == value).sum()) for value in (1, 0))
    if yes + no == 0:
        raise CalibrationError(
            f"{where} must have labels to calibrate on, got none for {len(dataset)} people; fill the columns of the "
            "attributes with 1 and 0"
        )
    if min(yes, no) < LEAST:
        raise CalibrationError(
            f"{where} must have {LEAST} or more labels yes and {LEAST} or more no, got {yes} and {no}; add people"
        )
    groups = len(set(groups_of(dataset)))
    if groups < _LEAST_GROUPS:
        what = "people" if dataset.groups is None else "groups of people"
        raise CalibrationError(
            f"{where} must have {_LEAST_GROUPS} or more {what}, to hold one out in turn, got {groups}; add people"
            + ("" if dataset.groups is None else " of other groups, or omit the column group")
        )


def calibrate_model(model: Model, dataset: Dataset, rule: Rule, *, progress: Progress = silent) -> Calibrated:
    """Run a model over labelled people, in native precision, and calibrate it.

    Args:
        model: A model that runs in native precision.
        dataset: The people, with labels. `check_data` tells beforehand whether they suffice.
        rule: How thresholds are chosen.
        progress: Opens stages of the work. Default: silent.

    Returns:
        The calibration and its report.

    Raises:
        CalibrationError: The data does not suffice, probabilities are not numbers, or the rule cannot be applied.
        DatasetError: No picture can be read, or the attributes of data and model differ.
    """
    unreadable: dict[int, SeqparError] = {}
    with progress(f"running on {model.backend.name}") as on_progress:
        generations = generate(model, dataset, Greedy(), progress=on_progress, unreadable=unreadable)
    if unreadable:
        kept = [row for row in range(len(dataset)) if row not in unreadable]
        if not kept:
            raise DatasetError(f"{dataset.name} must have one or more pictures that can be read, got none")
        dataset = dataset.subset(kept)
    check_data(dataset)
    probabilities = _probabilities_of(generations, model.name)
    groups, labels = groups_of(dataset), dataset.labels
    with progress("fitting") as on_progress:
        held_out = hold_out(probabilities, labels, groups, rule, dataset.label_set, progress=on_progress)
        fitted = fit_maps(probabilities, labels, groups)
        chosen = choose_thresholds(rule, fitted.held_out, labels, dataset.label_set, groups)
    with progress("measuring"):
        report = make_report(held_out, probabilities, attributes_of(generations, labels.shape[1]), labels, groups)
    data = FittingData(
        name=dataset.name,
        split=dataset.split,
        sha256=hash_of_data(dataset),
        people=len(dataset),
        groups=len(set(groups)),
    )
    shrinkage = dataclasses.asdict(fitted.shrinkage)
    calibration = Calibration(
        data=data,
        rule=chosen.rule,
        attributes=_attributes(fitted, chosen.thresholds, labels, dataset.label_set),
        report={"notes": list(chosen.notes), "shrinkage": shrinkage, "backend": model.backend.name, **report.values},
    )
    notes = (*_notes(fitted.own, labels, dataset.label_set), *chosen.notes)
    return Calibrated(
        calibration=calibration,
        thresholds=chosen.thresholds,
        report=report,
        notes=notes,
        unreadable=unreadable,
        labels=labels,
    )


def _probabilities_of(generations: Sequence[Generation], name: str) -> npt.NDArray[np.float32]:
    rows = [attribute_probabilities(generation.tokens, generation.distributions) for generation in generations]
    found = np.array(rows, dtype=np.float32)
    if bad := int((~np.isfinite(found)).any(axis=1).sum()):
        raise CalibrationError(
            f"probabilities of {name} must be numbers, got NaN for {bad} of {len(found)} people; "
            "check the bundle with seqpar parity"
        )
    return found


def _attributes(
    fitted: FittedMaps, thresholds: Thresholds, labels: Labels, label_set: LabelSet
) -> dict[str, AttributeCalibration]:
    distributions = histogram(fitted.held_out)
    limits = thresholds.limits(label_set)
    return {
        attribute.name: AttributeCalibration(
            slope=float(fitted.maps.slopes[place]),
            offset=float(fitted.maps.offsets[place]),
            map="own" if fitted.own[place] else "shared",
            positives=int((labels[:, place] == 1).sum()),
            negatives=int((labels[:, place] == 0).sum()),
            distribution=tuple(distributions[place].tolist()),
            yes=limits[attribute.name].yes,
            no=limits[attribute.name].no,
        )
        for place, attribute in enumerate(label_set.attributes)
    }


def histogram(probabilities: Floats) -> npt.NDArray[np.int64]:
    """Count people per attribute and bin of the probability, int64 (n, BINS), of probabilities (M, n)."""
    bins = np.minimum((np.asarray(probabilities) * BINS).astype(np.int64), BINS - 1)
    return np.stack([np.bincount(column, minlength=BINS) for column in bins.T])


def _notes(own: npt.NDArray[np.bool_], labels: Labels, label_set: LabelSet) -> list[str]:
    """Return a sentence on attributes with the shared map, and one on those that no person has."""
    names = np.array([attribute.name for attribute in label_set.attributes], dtype=object)
    notes = []
    if not own.all():
        notes.append(
            f"{int((~own).sum())} of {len(own)} attributes use the shared map, because they have fewer than {LEAST} "
            f"labels yes or no: {', '.join(names[~own])}"
        )
    if (without := ~(labels == 1).any(axis=0)).any():
        notes.append(f"nobody in the data has {', '.join(names[without])}: probabilities of these are not checked")
    return notes
