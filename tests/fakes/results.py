"""Files of results as `seqpar archive` writes them, made without a model."""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqpar_deploy.serving.archive.schema import ResultMetadata, result_schema
from seqpar_deploy.vocab import Attribute, Group, LabelSet

UTC = datetime.timezone.utc
NAMES = ("Female", "Hat", "HandBag", "Backpack", "Age18-60", "Long hair")


def label_set_of(names: Sequence[str] = NAMES, name: str = "street") -> LabelSet:
    attributes = tuple(Attribute(name=each, phrase=each.lower(), group="all") for each in names)
    return LabelSet(name=name, attributes=attributes, groups={"all": Group()})


def row(number: int, states: Mapping[str, str] | None, **values: Any) -> dict[str, Any]:
    """A row; attributes that are not in `states` are `no`. Probabilities follow the states unless they are given."""
    names = values.pop("names", NAMES)
    full = None if states is None else {name: states.get(name, "no") for name in names}
    likely = {"yes": 0.9, "no": 0.1, "unknown": 0.5}
    given = values.pop("probabilities", {})
    base = {
        "id": f"crops/{number:06d}.png",
        "source": f"crops/{number:06d}.png",
        "crops": 1,
        "states": full,
        "probabilities": full and {name: given.get(name, likely[state]) for name, state in full.items()},
        "tokens": full and [3 + names.index(name) for name, state in full.items() if state == "yes"],
        "bundle": "b" * 64,
        "error": None if full else "crops must be images, got an empty file",
    }
    return base | values


def write_results(
    path: Path, rows: Sequence[Mapping[str, Any]], label_set: LabelSet | None = None, **options: Any
) -> Path:
    """Write rows as one file of results, for example `JOB/shards/000000.parquet`."""
    metadata = ResultMetadata(bundle="b" * 64, label_set=label_set or label_set_of(), plan="p" * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=result_schema(metadata)), path, **options)
    return path


def random_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with any states, probabilities, cameras and times, and some errors."""
    draw = random.Random(seed)
    start = datetime.datetime(2026, 11, 1, tzinfo=UTC)
    rows = []
    for number in range(count):
        states = {name: draw.choice(("yes", "no", "no", "unknown")) for name in NAMES}
        rows.append(
            row(
                number,
                None if draw.random() < 0.05 else states,
                probabilities={name: round(draw.random(), 2) for name in NAMES},
                camera=draw.choice(("gate-1", "gate-2", "gate-3", None)),
                captured_at=draw.choice((None, start + datetime.timedelta(hours=draw.randrange(24 * 28)))),
            )
        )
    return rows
