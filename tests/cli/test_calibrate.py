"""`seqpar calibrate`: from labelled people to probabilities that predictions use, and how it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.run import run

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.calibration.sidecar import BINS, load_calibration
from seqpar_deploy.calibration.thresholds import read_thresholds
from seqpar_deploy.exporting import export
from seqpar_deploy.images import read_image
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow

CROPS = sample_crops()


@pytest.fixture
def bundle(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def write_people(
    path: Path, label_set: LabelSet, *, crops: Sequence[Path] = CROPS, groups: int = 10, values: str = "01"
) -> Path:
    """The crops with random labels. Nobody has the last attribute."""
    rng = np.random.default_rng(5)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "group", *(attribute.name for attribute in label_set.attributes)])
        for number, crop in enumerate(crops):
            labels = rng.choice([*values], size=len(label_set) - 1).tolist() if values else [""] * (len(label_set) - 1)
            table.writerow([crop, f"g{number % groups}", *labels, "0" if values else ""])
    return path


@pytest.fixture
def people(tmp_path: Path, label_set: LabelSet) -> Path:
    return write_people(tmp_path / "people.csv", label_set)


def calibration_of(bundle: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((bundle / "calibration.json").read_text())
    return values


def test_predictions_are_calibrated_afterwards(bundle: Path, people: Path, label_set: LabelSet) -> None:
    pictures = [read_image(path) for path in CROPS]
    with Recognizer.from_bundle(bundle) as recognizer:
        before = recognizer.predict(pictures)
    done = run("seqpar", "calibrate", bundle, "--data", people, "--backend", "onnxruntime")
    assert "20 people in 10 groups" in done.stdout
    assert label_set.attributes[-1].name in done.stdout.splitlines()[-1]  # nobody has it, which is no failure
    found = load_calibration(Bundle.open(bundle))
    assert found is not None
    assert (found.data.people, found.data.groups, len(found.data.sha256)) == (20, 10, 64)
    assert found.distributions.shape == (len(label_set), BINS)
    assert (found.distributions.sum(axis=1) == 20).all()
    assert found.attributes[label_set.attributes[-1].name].map == "shared"
    with Recognizer.from_bundle(bundle) as recognizer:
        after = recognizer.predict(pictures)
    for raw, calibrated in zip(before, after, strict=True):
        assert calibrated.tokens == raw.tokens
        np.testing.assert_allclose(calibrated.probabilities, found.maps(raw.probabilities), atol=1e-5)


def test_the_result_is_written_in_all_forms(bundle: Path, people: Path, tmp_path: Path, label_set: LabelSet) -> None:
    result, picture, thresholds = (tmp_path / "new" / name for name in ("r.json", "r.png", "t.toml"))
    files = ("--output", result, "--picture", picture, "--write-thresholds", thresholds)
    done = run("seqpar", "calibrate", bundle, "--data", people, "--objective", "ma", "--json", *files)
    values = json.loads(done.stdout)
    assert values == json.loads(result.read_text())
    kept = calibration_of(bundle)
    assert {key: values[key] for key in ("data", "attributes", "report")} == {
        key: kept[key] for key in ("data", "attributes", "report")
    }
    assert kept["rule"]["objective"] == "ma"
    report = kept["report"]
    assert report["folds"] == 10
    for scores in (report["calibrated"], report["uncalibrated"]):
        assert scores["nll"]["low"] <= scores["nll"]["value"] <= scores["nll"]["high"]
    difference = report["calibrated"]["nll"]["value"] - report["uncalibrated"]["nll"]["value"]
    assert report["nll_difference"]["value"] == pytest.approx(difference, abs=1e-6)
    assert picture.read_bytes().startswith(b"\x89PNG")
    calibration = load_calibration(Bundle.open(bundle))
    assert calibration is not None
    expected, found = calibration.thresholds(label_set), read_thresholds(thresholds, label_set)
    np.testing.assert_allclose(found.yes, expected.yes, atol=1e-6)
    np.testing.assert_allclose(found.no, expected.no, atol=1e-6)


def test_info_shows_the_calibration_and_whether_it_fits(bundle: Path, people: Path, label_set: LabelSet) -> None:
    run("seqpar", "calibrate", bundle, "--data", people)
    found = json.loads(run("seqpar", "info", bundle, "--json").stdout)["calibration"]
    assert found["fits"] is True
    assert found["data"]["people"] == 20
    text = run("seqpar", "info", bundle).stdout
    for fact in ("people, all", "20 people in 10 groups", found["data"]["sha256"][:12], label_set.attributes[-1].name):
        assert fact in text
    path = bundle / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bundle": "0" * 64}))
    found = json.loads(run("seqpar", "info", bundle, "--json").stdout)["calibration"]
    assert found["fits"] is False
    assert "bundle" in found["reason"]
    assert "calibration.json" in run("seqpar", "info", bundle).stdout


def test_the_same_people_give_the_same_calibration(bundle: Path, people: Path) -> None:
    run("seqpar", "calibrate", bundle, "--data", people)
    first = (bundle / "calibration.json").read_bytes()
    run("seqpar", "calibrate", bundle, "--data", people)
    assert (bundle / "calibration.json").read_bytes() == first


def test_unreadable_pictures_are_left_out(bundle: Path, tmp_path: Path, label_set: LabelSet) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(CROPS[0].read_bytes()[:300])
    data = write_people(tmp_path / "some.csv", label_set, crops=[bad, *CROPS[1:]])
    done = run("seqpar", "calibrate", bundle, "--data", data, code=2)
    assert "bad.png" in done.error
    assert "19 people" in done.stdout
    assert calibration_of(bundle)["data"]["people"] == 19


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"values": ""}, "labels"),
        ({"values": "0"}, "10 or more labels yes"),
        ({"groups": 1}, "groups"),
        ({"crops": CROPS[:2], "groups": 2}, "groups"),
    ],
)
def test_data_that_does_not_suffice_is_refused(
    bundle: Path, tmp_path: Path, label_set: LabelSet, data: dict[str, Any], message: str
) -> None:
    path = write_people(tmp_path / "few.csv", label_set, **data)
    assert message in run("seqpar", "calibrate", bundle, "--data", path, code=2).error
    assert not (bundle / "calibration.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--objective", "accuracy"), "accuracy"),
        (("--objective", "f1", "--max-error", "0.02"), "--max-error"),
        (("--max-error", "2"), "2"),
        (("--split", "validation"), "split"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    bundle: Path, people: Path, options: tuple[str, ...], message: str
) -> None:
    assert message in run("seqpar", "calibrate", bundle, "--data", people, *options, code=2).error


def test_an_output_that_cannot_be_written_is_refused_before_the_work(bundle: Path, people: Path) -> None:
    blocked = people / "result.json"  # below a file
    done = run("seqpar", "calibrate", bundle, "--data", people, "--output", blocked, code=2)
    assert "result.json" in done.error
    assert not (bundle / "calibration.json").exists()


def test_export_calibrates(
    bundle: Path, people: Path, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "export_bundle", lambda *_, **__: Bundle.open(bundle))
    words = ("seqpar", "export", "checkpoint", checkpoint_file, "--out", tmp_path / "b")
    assert json.loads(run(*words, "--json").stdout)["calibration"] is None
    values = json.loads(run(*words, "--calibrate-on", people, "--json").stdout)
    assert values["calibration"]["data"]["people"] == 20
    assert calibration_of(bundle)["data"] == values["calibration"]["data"]
    assert "--calibrate-on" in run(*words, "--calibrate-split", "val", code=2).error
    unknown = run(*words, "--calibrate-on", people, "--calibrate-split", "none", code=2).error
    assert "none" in unknown
    assert "--calibrate-on" not in unknown
    assert "none.csv" in run(*words, "--calibrate-on", tmp_path / "none.csv", code=2).error
