"""The sidecar `calibration.json`: maps, thresholds and the distributions of the people they were fitted on.

It is bound to the bundle's digest, padding and compute precision. One that does not fit is ignored with one log line.
`seqpar calibrate` writes it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqpar_deploy.bundle import CALIBRATION, Bundle
from seqpar_deploy.calibration.maps import LogisticMaps
from seqpar_deploy.calibration.thresholds import Limits, Thresholds
from seqpar_deploy.config import NotNegative, PositiveNumber, parse_json, typed
from seqpar_deploy.errors import CalibrationError, SeqparError
from seqpar_deploy.files import finite
from seqpar_deploy.sidecars import sidecars, write_sidecar
from seqpar_deploy.vocab import LabelSet

_log = logging.getLogger(__name__)

FORMAT = 1
BINS = 20  # of a distribution: equal parts of 0 to 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributeCalibration:
    """Hold the calibration of one attribute.

    Attributes:
        slope: Factor of the log-odds, above 0.
        offset: Added to the log-odds.
        map: `own`, or `shared` by the attributes with too few labels.
        positives: People of the fitting set who have the attribute.
        negatives: People of the fitting set who do not.
        distribution: People of the fitting set per bin of the calibrated probability, `BINS` counts. People without a
            label count too.
        yes: Threshold of the state `yes`. Default: None, never `yes`.
        no: Threshold of the state `no`. Default: None, never `no`.
    """

    slope: PositiveNumber
    offset: float
    map: Literal["own", "shared"]
    positives: NotNegative
    negatives: NotNegative
    distribution: tuple[NotNegative, ...]
    yes: float | None = None
    no: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.offset):
            raise ValueError(f"offset must be finite, got {self.offset}")
        for name, limit in (("yes", self.yes), ("no", self.no)):
            if limit is not None and not 0 <= limit <= 1:
                raise ValueError(f"{name} must be 0 to 1, got {limit:g}")
        _ = self.limits  # raises ValueError if no is above yes
        if len(self.distribution) != BINS:
            raise ValueError(f"distribution must have {BINS} counts, got {len(self.distribution)}")

    @property
    def limits(self) -> Limits:
        return Limits(yes=self.yes, no=self.no)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittingData:
    """Describe the people of the fitting set.

    Attributes:
        name: Name of the dataset.
        split: Name of its split.
        sha256: Hash of the labels and pictures, see `evaluation/fitting`.
        people: Number of people.
        groups: Number of groups, or of people if the dataset has none.
    """

    name: str
    split: str
    sha256: str
    people: NotNegative
    groups: NotNegative


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """Hold a bundle's calibration.

    Attributes:
        data: The fitting set.
        rule: How the thresholds were chosen, for example {"objective": "f1"}.
        attributes: The calibration of each attribute, in the label set's order.
        report: The held-out report, as JSON values. Default: none.
    """

    data: FittingData
    rule: Mapping[str, Any]
    attributes: Mapping[str, AttributeCalibration]
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def maps(self) -> LogisticMaps:
        """The maps of all attributes."""
        some = self.attributes.values()
        return LogisticMaps(
            slopes=np.array([one.slope for one in some]), offsets=np.array([one.offset for one in some])
        )

    def thresholds(self, label_set: LabelSet) -> Thresholds:
        """Return the thresholds of all attributes."""
        return Thresholds.from_limits(label_set, {n: one.limits for n, one in self.attributes.items()}, Limits())

    def limited_to(self, label_set: LabelSet) -> Calibration:
        """Return the calibration of the attributes of a label set only, without the held-out report."""
        attributes = {one.name: self.attributes[one.name] for one in label_set.attributes}
        return dataclasses.replace(self, attributes=attributes, report={})

    @property
    def distributions(self) -> npt.NDArray[np.int64]:
        """The people of the fitting set per attribute and bin, int64 (n, BINS)."""
        return np.array([one.distribution for one in self.attributes.values()], dtype=np.int64)


def save_calibration(bundle: Bundle, calibration: Calibration) -> Path:
    """Store a calibration beside its bundle.

    Returns:
        The path of the file, see `sidecars.write_sidecar`.

    Raises:
        SeqparError: The file cannot be written.
    """
    values = {"format": FORMAT, **_made_for(bundle, "native"), **dataclasses.asdict(calibration)}
    return write_sidecar(bundle, CALIBRATION, (json.dumps(finite(values), indent=1) + "\n").encode())


def load_calibration(bundle: Bundle) -> Calibration | None:
    """Return the calibration of a bundle, or None if there is none that fits. One that does not fit is logged.

    Calibrations are fitted in native precision. In bf16 and int8 they apply too, because a recogniser re-runs crops
    whose probability is near a threshold.
    """
    reasons = []
    for path, content in sidecars(bundle, CALIBRATION):
        try:
            return calibration_from(content, bundle, source=str(path))
        except SeqparError as error:
            reasons.append(str(error))
    if reasons:
        _log.warning("ignoring %s: %s; run seqpar calibrate", CALIBRATION, reasons[0])
    return None


def calibration_from(content: bytes, bundle: Bundle, *, source: str) -> Calibration:
    """Read a calibration, and check that it fits the bundle. Raises CalibrationError."""
    values = parse_json(content, source=source, error=CalibrationError)
    for key, expected in {"format": FORMAT, **_made_for(bundle, "native")}.items():
        if values.get(key) != expected:
            raise CalibrationError(f"{source}: {key} must be {expected!r}, got {values.get(key)!r}")
    calibration = typed(values, Calibration, source=source, error=CalibrationError)
    names = [attribute.name for attribute in bundle.label_set.attributes]
    if list(calibration.attributes) != names:
        raise CalibrationError(
            f"{source}: attributes must be the {len(names)} of the bundle, in its order, got "
            f"{len(calibration.attributes)}"
        )
    return calibration


def _made_for(bundle: Bundle, compute_precision: str) -> dict[str, Any]:
    return {"bundle": bundle.digest, "padding": bundle.padding, "compute_precision": compute_precision}
