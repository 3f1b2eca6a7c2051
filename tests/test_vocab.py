from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqpar_deploy.errors import LabelSetError
from seqpar_deploy.resources import data_dir, label_set_names, load_label_set
from seqpar_deploy.vocab import LabelSet

SIZES = {
    "peta": 35,
    "pa100k": 26,
    "rapv1": 51,
    "rapv2": 54,
    "wider": 14,
    "peta-zs": 35,
    "rap-zs": 53,
    "msp60k": 57,
}


def test_every_label_set_ships() -> None:
    assert {name: len(load_label_set(name)) for name in label_set_names()} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_label_sets_survive_a_manifest(name: str) -> None:
    label_set = load_label_set(name)
    assert LabelSet.from_dict(json.loads(json.dumps(label_set.to_dict())), source="manifest") == label_set
    assert label_set.groups.keys() == {attribute.group for attribute in label_set.attributes}


def test_paper_scores() -> None:
    assert load_label_set("peta").paper == {"accuracy": 84.92, "precision": 90.44, "recall": 90.73, "f1": 90.46}
    assert {name for name in SIZES if load_label_set(name).paper is None} == {"wider", "msp60k"}


def test_tokens_and_attributes() -> None:
    label_set = load_label_set("pa100k")
    assert label_set.vocabulary_size == 29
    assert label_set.token("Female") == 3
    assert [label_set.attribute(token) for token in (0, 1, 2)] == [None, None, None]
    first = label_set.attribute(3)
    assert first is not None
    assert (first.name, first.phrase, first.group) == ("Female", "female", "gender")
    with pytest.raises(LabelSetError, match="pa100k, got 'Moustache'"):
        label_set.token("Moustache")


def test_sentences_replace_phrases() -> None:
    label_set = load_label_set("peta", sentences=True)
    assert label_set.phrases[0] == "A pedestrian wearing a hat"
    assert [a.name for a in label_set.attributes] == [a.name for a in load_label_set("peta").attributes]
    with pytest.raises(LabelSetError, match=r"rapv1: sentences .*51 .* got 0"):
        load_label_set("rapv1", sentences=True)


def test_a_label_set_of_ones_own(tmp_path: Path) -> None:
    text = (data_dir("models") / "wider.toml").read_text().replace('name = "wider"', 'name = "mine"')
    (tmp_path / "mine.toml").write_text(text)
    assert load_label_set(tmp_path / "mine.toml").name == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("format = 1", "format = 9"), "format must be 1, got 9"),
        (('group = "gender"', 'group = "sex"'), r"group .*'sex'"),
        (('phrase = "female"', 'phrase = "front"'), "different phrases, got 'front' twice"),
        (('phrase = "female"', 'phrase = " "'), r"attributes\[0\]\.phrase must be text"),
        (('pad = "square"', 'pad = "round"'), r"preprocessing\.pad must be one of 'square', 'none', got 'round'"),
        (('interpolation = "bilinear"', 'interpolation = "magic"'), r"preprocessing\.interpolation must be .*'magic'"),
        (("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.5, 0]"), r"preprocessing\.std\[2\] must be a number > 0, got 0"),
        (("fill = [0, 0, 0]", "fill = [0, 256, 0]"), r"preprocessing\.fill\[1\] must be .* 0 to 255, got 256"),
        (("exclusive = true", 'exclusive = "yes"'), r"groups\.age\.exclusive must be true or false, got 'yes'"),
        (("name = ", "nom = "), "nom is an unknown key, .*name, attributes"),
        (("momentary =", "passing ="), r"groups\.view\.passing is an unknown key, .*exclusive, momentary"),
        (("format = 1", "format = "), "TOML"),
    ],
)
def test_a_malformed_label_set_is_refused_in_one_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    text = (data_dir("models") / "pa100k.toml").read_text()
    assert change[0] in text
    (tmp_path / "bad.toml").write_text(text.replace(*change, 1))
    with pytest.raises(LabelSetError, match=message) as caught:
        load_label_set(tmp_path / "bad.toml")
    assert "bad.toml" in str(caught.value)


def test_an_unknown_label_set_names_those_there_are() -> None:
    with pytest.raises(LabelSetError, match=r"label set .*msp60k, pa100k.* got 'petra'"):
        load_label_set("petra")
