"""Converts events to JSON. docs/reference/events.md documents the schema. `SCHEMA` grows if readers must change."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from seqpar_deploy.video.types import Attribute, Event, Person, Sighting, ZoneEvent

SCHEMA = 2


def event_line(event: Event | ZoneEvent, at: datetime.datetime | None = None) -> str:
    """Return the event as one line of JSON without a newline. `at` is the time of writing. Default: now."""
    at = at or datetime.datetime.now(datetime.timezone.utc)
    values = zone_values(event, at) if isinstance(event, ZoneEvent) else event_values(event, at)
    return json.dumps(values, ensure_ascii=False)


def event_values(event: Event, at: datetime.datetime) -> dict[str, Any]:
    """Return the event as JSON values."""
    return {
        "schema": SCHEMA,
        "event": event.kind,
        "at": at.isoformat(timespec="milliseconds"),
        "stream": _text(event.person.stream),
        **_person(event.person),
        "changed": [_text(name) for name in event.changed],
    }


def zone_values(event: ZoneEvent, at: datetime.datetime) -> dict[str, Any]:
    """Return an event of a zone or line as JSON values. Keys that the kind does not have are absent."""
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "event": event.kind,
        "at": at.isoformat(timespec="milliseconds"),
        "stream": _text(event.stream),
        "zone": _text(event.zone),
        "timestamp": round(float(event.timestamp), 3),
    }
    if event.kind == "counted":
        return {
            **values,
            "interval": round(float(event.interval or 0), 3),
            "people": dict(event.people),
            "people_with": _by_name(event.attributes),
            "people_unknown": _by_name(event.unknown),
            "people_unrecognized": dict(event.unrecognized),
            **({} if event.dwell is None else {"dwell": round(float(event.dwell), 3)}),
        }
    values["track_id"] = event.track_id
    if event.sighting is not None:
        values["last"] = _sighting(event.sighting)
    if event.direction is not None:
        values["direction"] = event.direction
    if event.dwell is not None:
        values["dwell"] = round(float(event.dwell), 3)
    if event.person is not None:
        values["attributes"] = _attributes(event.person.attributes)
    return values


def _by_name(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {what: {_text(name): number for name, number in some.items()} for what, some in counts.items()}


def _person(person: Person) -> dict[str, Any]:
    return {
        "track_id": int(person.track_id),
        "first": _sighting(person.first),
        "last": _sighting(person.last),
        "best": _sighting(person.best),
        "crops": person.crops,
        "attributes": _attributes(person.attributes),
    }


def _attributes(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    return {
        _text(name): {"state": attribute.state, "probability": round(float(attribute.probability), 4)}
        for name, attribute in attributes.items()
    }


def _sighting(sighting: Sighting) -> dict[str, Any]:
    box = sighting.box
    return {
        "frame": int(sighting.frame),
        "timestamp": round(float(sighting.timestamp), 3),
        "box": [round(float(edge), 1) for edge in (box.left, box.top, box.right, box.bottom)],
    }


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode("utf-8")  # file names may contain bytes that are not UTF-8
