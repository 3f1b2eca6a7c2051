"""An event as JSON. The schema is documented in docs/events.md; `SCHEMA` grows when a reader has to change."""

from __future__ import annotations

import datetime
import json
from typing import Any

from seqpar_deploy.video.types import Box, Event

SCHEMA = 1


def event_line(event: Event, at: datetime.datetime | None = None) -> str:
    """The event as one line of JSON, without its end; `at` is when it was told, now by default."""
    return json.dumps(event_values(event, at or datetime.datetime.now(datetime.timezone.utc)), ensure_ascii=False)


def event_values(event: Event, at: datetime.datetime) -> dict[str, Any]:
    """The event as JSON values."""
    person = event.person
    return {
        "schema": SCHEMA,
        "event": event.kind,
        "at": at.isoformat(timespec="milliseconds"),
        "stream": _text(person.stream),
        "track": int(person.track),
        "first": _moment(person.first_frame, person.first_seconds),
        "last": _moment(person.last_frame, person.last_seconds) | {"box": _edges(person.box)},
        "best": _moment(person.best_frame, person.best_seconds) | {"box": _edges(person.best_box)},
        "crops": person.crops,
        "attributes": {
            _text(name): {"state": attribute.state, "probability": round(float(attribute.probability), 4)}
            for name, attribute in person.attributes.items()
        },
        "changed": [_text(name) for name in event.changed],
    }


def _moment(frame: int, seconds: float) -> dict[str, Any]:
    return {"frame": int(frame), "seconds": round(float(seconds), 3)}


def _edges(box: Box) -> list[float]:
    return [round(float(edge), 1) for edge in (box.left, box.top, box.right, box.bottom)]


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode("utf-8")  # file names may hold what UTF-8 cannot
