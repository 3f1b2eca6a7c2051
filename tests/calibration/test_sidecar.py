"""calibration.json: it comes back as it was written, and one that does not fit is refused with a line."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpar_deploy import Bundle
from seqpar_deploy.calibration.sidecar import (
    BINS,
    AttributeCalibration,
    Calibration,
    FittingData,
    calibration_from,
    load_calibration,
    save_calibration,
)
from seqpar_deploy.errors import CalibrationError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def bundle(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Bundle.open(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def made_for(bundle: Bundle) -> Calibration:
    return Calibration(
        data=FittingData(name="people", split="val", sha256="ab" * 32, people=40, groups=20),
        rule={"objective": "f1"},
        attributes={
            attribute.name: AttributeCalibration(
                slope=0.5 + place,
                offset=-0.1 * place,
                map="own" if place else "shared",
                positives=place,
                negatives=40 - place,
                distribution=(40 - place, *[0] * (BINS - 2), place),
                yes=None if place == 1 else 0.5,
                no=0.25,
            )
            for place, attribute in enumerate(bundle.label_set.attributes)
        },
        report={"ece": 0.01},
    )


def test_it_comes_back_as_it_was_written(bundle: Bundle) -> None:
    digest, calibration = bundle.digest, made_for(bundle)
    assert load_calibration(bundle) is None
    path = save_calibration(bundle, calibration)
    assert path == bundle.path / "calibration.json"
    found = load_calibration(Bundle.open(bundle.path))
    assert found == calibration
    assert Bundle.open(bundle.path).digest == digest


def test_its_arrays_are_in_the_order_of_the_label_set(bundle: Bundle) -> None:
    calibration, count = made_for(bundle), len(bundle.label_set)
    np.testing.assert_array_equal(calibration.maps.slopes, 0.5 + np.arange(count))
    np.testing.assert_allclose(calibration.maps.offsets, -0.1 * np.arange(count))
    thresholds = calibration.thresholds(bundle.label_set)
    assert thresholds.yes[:3].tolist() == [0.5, np.inf, 0.5]
    assert (thresholds.no == 0.25).all()
    assert calibration.distributions.shape == (count, BINS)
    assert (calibration.distributions.sum(axis=1) == 40).all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda values: values.update(bundle="0" * 64), "bundle"),
        (lambda values: values.update(padding="cropped"), "padding"),
        (lambda values: values.update(compute_precision="bf16"), "compute_precision"),
        (lambda values: values.update(format=99), "format"),
        (lambda values: values.pop("rule"), "rule"),
        (lambda values: values["attributes"].pop("Hat"), "attributes"),
        (lambda values: values["attributes"]["Hat"].update(yes=1.5), "yes"),
        (lambda values: values["attributes"]["Hat"].update(no=0.9), "no"),
        (lambda values: values["attributes"]["Hat"].update(slope=0), "slope"),
        (lambda values: values["attributes"]["Hat"].update(offset=None), "offset"),
        (lambda values: values["attributes"]["Hat"].update(map="mine"), "map"),
        (lambda values: values["attributes"]["Hat"].update(distribution=[1, 2]), "distribution"),
    ],
)
def test_one_that_does_not_fit_is_refused(
    bundle: Bundle, change: Change, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_calibration(bundle, made_for(bundle))
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(CalibrationError, match=named) as caught:
        calibration_from(path.read_bytes(), bundle, source=str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        assert load_calibration(bundle) is None
    (record,) = caplog.records
    assert "calibration.json" in record.getMessage()


def test_one_that_fits_is_found_behind_one_that_does_not(bundle: Bundle, tmp_path: Path) -> None:
    calibration = made_for(bundle)
    path = save_calibration(bundle, calibration)
    cached = tmp_path / "cache" / "seqpar-deploy" / bundle.digest / path.name
    cached.parent.mkdir(parents=True)
    path.rename(cached)
    path.write_text("[")
    found = load_calibration(bundle)
    assert found is not None
    assert dataclasses.asdict(found) == dataclasses.asdict(calibration)
