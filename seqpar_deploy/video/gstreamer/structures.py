"""The metadata of a person and of an event, as names and values that GStreamer's structures can hold.

Structures of a person's region:

- `object_id` with `id`: the track ID, as DL Streamer's `gvatrack` writes it.
- `detection` with `label_id`, `confidence` and the edges as shares of the frame: only on regions of ours.
- `seqpar` with `track-id`, `crops`, and for each attribute NAME `NAME-state` and `NAME-probability`.
- `seqpar-attribute`, one per attribute whose state is "yes", with `label`, `label_id`, `confidence`, `attribute_name`
  and `model_name`: the fields of DL Streamer's `gvaclassify`, so that programs that print its labels print these.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from seqpar_deploy.video.sinks.events import event_line
from seqpar_deploy.video.types import Box, Event, Person

Value = str | int | float

OBJECT_ID, DETECTION, PERSON, ATTRIBUTE, EVENT = "object_id", "detection", "seqpar", "seqpar-attribute", "seqpar-event"


class Structure(NamedTuple):
    """A name, and fields with their values."""

    name: str
    fields: tuple[tuple[str, Value], ...]


def object_id(track_id: int) -> Structure:
    """Return the structure of a track ID."""
    return Structure(OBJECT_ID, (("id", track_id),))


def detection(box: Box, width: int, height: int) -> Structure:
    """Return the structure of a detection in a frame of `width` x `height` pixels."""
    fields: tuple[tuple[str, Value], ...] = (
        ("label_id", 0),
        ("confidence", float(box.score)),
        ("x_min", box.left / width),
        ("y_min", box.top / height),
        ("x_max", box.right / width),
        ("y_max", box.bottom / height),
    )
    return Structure(DETECTION, fields)


def of_person(person: Person) -> list[Structure]:
    """Return the structures of a person's attributes."""
    fields: list[tuple[str, Value]] = [("track-id", person.track_id), ("crops", person.crops)]
    labels = []
    for place, (name, attribute) in enumerate(person.attributes.items()):
        key, probability = field_name(name), float(attribute.probability)
        fields += [(f"{key}-state", attribute.state), (f"{key}-probability", probability)]
        if attribute.state == "yes":
            values = (("label", name), ("label_id", place), ("confidence", probability))
            names = (("attribute_name", name), ("model_name", "seqpar"))
            labels.append(Structure(ATTRIBUTE, (*values, *names)))
    return [Structure(PERSON, tuple(fields)), *labels]


def of_event(event: Event) -> Structure:
    """Return the structure of an event: `json` is the line of `seqpar video --events`, the rest is for simple uses."""
    person = event.person
    return Structure(
        EVENT,
        (
            ("event", event.kind),
            ("stream", person.stream),
            ("track-id", person.track_id),
            ("labels", ",".join(person.labels)),
            ("json", event_line(event)),
        ),
    )


def field_name(name: str) -> str:
    """Return an attribute's name with "_" for each character that the name of a field must not have."""
    name = re.sub(r"[^A-Za-z0-9_.:+/-]", "_", name)
    return name if name[:1].isalpha() else f"_{name}"
