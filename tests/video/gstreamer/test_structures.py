"""The names and values of metadata and messages."""

from __future__ import annotations

import json
import re

import pytest
from video.sinks.people import attributes, event, person

from seqpar_deploy.resources import label_set_names, load_label_set
from seqpar_deploy.video.gstreamer import structures
from seqpar_deploy.video.types import Box

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9/_.:+-]*")  # what GStreamer reads back from the text of a structure


@pytest.mark.parametrize("label_set", label_set_names())
def test_every_attribute_has_fields_of_its_own(label_set: str) -> None:
    names = [attribute.name for attribute in load_label_set(label_set).attributes]
    made, *labels = structures.of_person(person(attributes=attributes(names, names=names)))
    fields = dict(made.fields)
    assert len(fields) == len(made.fields) == 2 + 2 * len(names)
    assert all(NAME.fullmatch(field) for field in fields)
    assert [dict(label.fields)["label"] for label in labels] == names
    assert [dict(label.fields)["label_id"] for label in labels] == list(range(len(names)))


@pytest.mark.parametrize(
    ("name", "field"), [("Age17-30", "Age17-30"), ("short sleeve", "short_sleeve"), ("30+", "_30+")]
)
def test_field_names(name: str, field: str) -> None:
    assert structures.field_name(name) == field


def test_states_and_probabilities_of_a_person() -> None:
    who = person(track=7, attributes=attributes(("a",), ("b",), names=("a", "b", "c")), crops=3)
    made, label = structures.of_person(who)
    fields = dict(made.fields)
    assert (made.name, fields["track-id"], fields["crops"]) == ("seqpar", 7, 3)
    assert [fields[f"{name}-state"] for name in "abc"] == ["yes", "unknown", "no"]
    assert [fields[f"{name}-probability"] for name in "abc"] == [0.93, 0.5, 0.04]
    assert dict(label.fields) == {
        "label": "a",
        "label_id": 0,
        "confidence": 0.93,
        "attribute_name": "a",
        "model_name": "seqpar",
    }


def test_a_detection_has_shares_of_the_frame() -> None:
    made = structures.detection(Box(left=10, top=20, right=30, bottom=80, score=0.5), 100, 200)
    edges = [dict(made.fields)[name] for name in ("x_min", "y_min", "x_max", "y_max", "confidence")]
    assert edges == pytest.approx([0.1, 0.1, 0.3, 0.4, 0.5])


def test_a_message_holds_the_line_of_the_event() -> None:
    fields = dict(structures.of_event(event("changed", person(track=4))).fields)
    values = json.loads(fields["json"])
    assert (values["event"], values["track_id"], values["stream"]) == ("changed", 4, "street")
    assert (fields["event"], fields["track-id"], fields["stream"]) == ("changed", 4, "street")
    assert fields["labels"] == "female,backpack"
