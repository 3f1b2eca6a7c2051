"""Converts events to JSON. docs/reference/events.md documents the schema. `SCHEMA` grows if readers must change."""

from __future__ import annotations

import datetime
import json
from typing import Any

from seqpar_deploy.video.types import Event, Sighting

SCHEMA = 2


def event_line(event: Event, at: datetime.datetime | None = None) -> str:
    """Return the event as one line of JSON without a newline. `at` is the time of writing. Default: now."""
    return json.dumps(event_values(event, at or datetime.datetime.now(datetime.timezone.utc)), ensure_ascii=False)


def event_values(event: Event, at: datetime.datetime) -> dict[str, Any]:
    """Return the event as JSON values."""
    person = event.person
    return {
        "schema": SCHEMA,
        "event": event.kind,
        "at": at.isoformat(timespec="milliseconds"),
        "stream": _text(person.stream),
        "track_id": int(person.track_id),
        "first": _sighting(person.first),
        "last": _sighting(person.last),
        "best": _sighting(person.best),
        "crops": person.crops,
        "attributes": {
            _text(name): {"state": attribute.state, "probability": round(float(attribute.probability), 4)}
            for name, attribute in person.attributes.items()
        },
        "changed": [_text(name) for name in event.changed],
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
