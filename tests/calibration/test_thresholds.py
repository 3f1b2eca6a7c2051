"""Thresholds: what states they give, and what files they are read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqpar_deploy.calibration.thresholds import Limits, Thresholds, read_thresholds, thresholds_to_toml
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.vocab import Attribute, Group, LabelSet

NAMES = ["Hat", "Young", "Old", 'A "q" \\ b', "x\x7f\ny", "人 é", "a.b", "#c = 1"]
LABEL_SET = LabelSet(
    name="mine\n[evil]",
    attributes=tuple(
        Attribute(name=name, phrase=f"phrase {place}", group="age" if name in ("Young", "Old") else "rest")
        for place, name in enumerate(NAMES)
    ),
    groups={"age": Group(exclusive=True), "rest": Group()},
)


def states(text: str, tmp_path: Path, **probabilities: float) -> dict[str, str]:
    (tmp_path / "t.toml").write_text(text, encoding="utf-8")
    values = np.array([probabilities.get(name, 0.0) for name in NAMES], dtype=np.float32)
    return dict(zip(NAMES, read_thresholds(tmp_path / "t.toml", LABEL_SET).states(values), strict=True))


@pytest.mark.parametrize(
    ("limits", "probability", "state"),
    [
        ("0.62", 0.625, "yes"),
        ("0.62", 0.61, "no"),
        ("{no = 0.25, yes = 0.75}", 0.75, "yes"),
        ("{no = 0.25, yes = 0.75}", 0.5, "unknown"),
        ("{no = 0.25, yes = 0.75}", 0.25, "unknown"),
        ("{no = 0.25, yes = 0.75}", 0.2, "no"),
        ("{no = 0.04}", 1.0, "unknown"),
        ("{yes = 0.9}", 0.0, "unknown"),
        ("{}", 1.0, "unknown"),
        ("1", 1.0, "yes"),
        ("0", 0.0, "yes"),
    ],
)
def test_states_of_an_attribute(limits: str, probability: float, state: str, tmp_path: Path) -> None:
    found = states(f"format = 1\n[attributes]\nHat = {limits}\n", tmp_path, Hat=probability)
    assert found["Hat"] == state
    assert found["a.b"] == "no"  # of the default


def test_the_default_holds_for_attributes_without_an_entry(tmp_path: Path) -> None:
    found = states("format = 1\ndefault = {no = 0.1, yes = 0.9}\n[attributes]\nHat = 0.5\n", tmp_path, Hat=0.4, Old=0.4)
    assert (found["Hat"], found["Old"], found["a.b"]) == ("no", "unknown", "no")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("format = 1\n[attributes]\nHat = nan\n", "nan"),
        ("format = 1\n[attributes]\nHat = {yes = nan}\n", "Hat"),
        ("format = 1\n[attributes]\nHat = {no = 0.9, yes = 0.1}\n", "0.9"),
        ("format = 1\n[attributes]\nHat = 1.2\n", "1.2"),
        ("format = 1\n[attributes]\nHat = -0.1\n", "-0.1"),
        ("format = 1\n[attributes]\nHat = inf\n", "inf"),
        ("format = 1\n[attributes]\nHat = {yes = 1.2}\n", "Hat"),
        ("format = 1\n[attributes]\nHat = {maybe = 0.5}\n", "maybe"),
        ("format = 1\ndefualt = 0.4\n", "defualt"),
        ("format = 1\ndefault = 50\n", "50"),
        ('format = 1\n[attributes]\nHat = "0.5"\n', "Hat"),
        ("format = 1\n[attributes]\nHat = true\n", "Hat"),
        ("format = 1\n[attributes]\nHat = {yes = true}\n", "Hat"),
        ("format = 1\n[attributes]\nHat = [0.1, 0.9]\n", "Hat"),
        ("format = 1\n[attributes]\nHta = 0.5\n", "Hta"),
        ("format = 1\nattributes = 0.5\n", "attributes"),
        ("", "format"),
        ("[attributes]\nHat = 0.5\n", "format"),
        ("format = 2\n", "2"),
        ("format = 1\nHat = = 0.5\n", "t.toml"),
    ],
)
def test_a_bad_file_is_one_line(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError) as raised:
        states(text, tmp_path)
    message = str(raised.value)
    assert told in message
    assert "t.toml" in message
    assert "\n" not in message


def test_a_path_that_is_no_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'format = 1\n[attributes]\n"\xe9" = 0.5\n')
    (tmp_path / "bytes.toml").write_bytes(b"\x00\xff\xfe")
    for path in (tmp_path, tmp_path / "gone.toml", tmp_path / "latin.toml", tmp_path / "bytes.toml"):
        with pytest.raises(CalibrationError) as raised:
            read_thresholds(path, LABEL_SET)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    thresholds = Thresholds(
        yes=np.array([0.5, np.inf, 0.9, 1 / 3, np.inf, 1.0, 0.0, 1e-7]),
        no=np.array([0.5, -np.inf, 0.1, 1e-7, 0.04, 1.0, 0.0, -np.inf]),
        exclusive=LABEL_SET.exclusive,
    )
    path = tmp_path / "t.toml"
    path.write_text(thresholds_to_toml(thresholds, LABEL_SET), encoding="utf-8")
    again = read_thresholds(path, LABEL_SET)
    np.testing.assert_array_equal(again.yes, thresholds.yes)
    np.testing.assert_array_equal(again.no, thresholds.no)
    assert again.exclusive == ((1, 2),)


def test_the_most_probable_of_an_exclusive_group_is_yes() -> None:
    thresholds = Thresholds.from_limits(LABEL_SET, {}, Limits(yes=0.3, no=0.1))
    rows = np.zeros((3, len(NAMES)))
    rows[:, 1:3] = [[0.5, 0.4], [0.4, 0.5], [0.2, 0.4]]
    assert thresholds.codes(rows)[:, 1:3].tolist() == [[1, 0], [0, 1], [-1, 1]]


def test_a_probability_that_is_no_number_is_unknown() -> None:
    thresholds = Thresholds.from_limits(LABEL_SET, {}, Limits(yes=0.5, no=0.5))
    assert set(thresholds.states(np.full(len(NAMES), np.nan, dtype=np.float32))) == {"unknown"}
