"""Calibrations made by hand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.drift import bins
from seqpar_deploy.calibration.sidecar import BINS, AttributeCalibration, Calibration, FittingData
from seqpar_deploy.vocab import LabelSet


def calibrated_on(
    reference: npt.NDArray[np.floating], label_set: LabelSet, *, groups: int | None = None
) -> Calibration:
    """A calibration that changes nothing, with the distributions of the probabilities (M, n)."""
    counts = [np.bincount(column, minlength=BINS).tolist() for column in bins(reference).T]
    people = len(reference)
    return Calibration(
        data=FittingData(name="people", split="val", sha256="", people=people, groups=groups or people),
        rule={},
        attributes={
            attribute.name: AttributeCalibration(
                slope=1.0, offset=0.0, map="own", positives=9, negatives=9, distribution=tuple(row), yes=0.5, no=0.5
            )
            for attribute, row in zip(label_set.attributes, counts, strict=True)
        },
    )
