"""Collects the results of a shard as columns of the schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqpar_deploy.calibration.thresholds import State
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.schema import ResultMetadata, result_schema
from seqpar_deploy.serving.archive.sdk import import_pyarrow
from seqpar_deploy.video.types import Person

_STATES: tuple[State, ...] = ("no", "yes", "unknown")


class Rows:
    """Rows of results, in the order in which they are added.

    Args:
        metadata: The metadata of the file that the rows are for.
    """

    def __init__(self, metadata: ResultMetadata) -> None:
        self._schema = result_schema(metadata)
        self._bundle = metadata.bundle
        self._attributes = len(metadata.label_set)
        self._rows: list[dict[str, Any]] = []
        self._states: list[list[int]] = []
        self._probabilities: list[Sequence[float]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, entry: Entry, prediction: Prediction) -> None:
        """Add the result of a picture."""
        self._add(entry, prediction.states, prediction.probabilities.tolist(), crops=1, tokens=list(prediction.tokens))

    def add_person(self, entry: Entry, person: Person, *, row_id: str | None = None) -> None:
        """Add a person of a video. The default of `row_id` is the entry's ID and the track."""
        attributes = person.attributes.values()
        best, box = person.best, person.best.box
        self._add(
            entry,
            [one.state for one in attributes],
            [one.probability for one in attributes],
            id=row_id or f"{entry.id}#{person.track_id}",
            captured_at=None if entry.captured_at is None else entry.captured_at + round(1e6 * best.timestamp),
            frame=best.frame,
            timestamp=best.timestamp,
            ended=person.last.timestamp,
            track_id=person.track_id,
            box=[box.left, box.top, box.right, box.bottom],
            crops=person.crops,
        )

    def add_error(self, entry: Entry, error: str) -> None:
        """Add an entry without a result. `error` is the reason in one line."""
        self._add(entry, None, None, crops=0, error=error)

    def to_batch(self) -> Any:
        """Return the rows as a `pyarrow.RecordBatch`."""
        pa = import_pyarrow()
        columns = []
        for field in self._schema:
            if field.name in ("states", "probabilities"):
                columns.append(self._struct(field))
            else:
                columns.append(pa.array([row.get(field.name) for row in self._rows], type=field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _add(self, entry: Entry, states: Any, probabilities: Any, **columns: Any) -> None:
        missing = states is None
        self._states.append([0] * self._attributes if missing else [_STATES.index(state) for state in states])
        self._probabilities.append([0.0] * self._attributes if missing else probabilities)
        row = {
            "id": entry.id,
            "source": entry.source,
            "entry": entry.entry,
            "camera": entry.camera,
            "captured_at": entry.captured_at,
            "box": entry.box,
            "bundle": self._bundle,
        }
        self._rows.append({**row, **columns})

    def _struct(self, field: Any) -> Any:
        """Return a struct column. Rows with an error are null, and so are their fields."""
        pa = import_pyarrow()
        missing = np.array([row.get("error") is not None for row in self._rows], dtype=bool)
        if field.name == "states":
            codes = np.array(self._states, dtype=np.int8).reshape(-1, self._attributes)
            names = pa.array(_STATES, type=pa.string())
            fields = [
                pa.DictionaryArray.from_arrays(pa.array(column, mask=missing), names).cast(pa.string())
                for column in codes.T
            ]
        else:
            values = np.array(self._probabilities, dtype=np.float32).reshape(-1, self._attributes)
            fields = [pa.array(column, mask=missing) for column in values.T]
        return pa.StructArray.from_arrays(fields, fields=list(field.type), mask=pa.array(missing))
