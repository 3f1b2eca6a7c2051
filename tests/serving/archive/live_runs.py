"""A live run whose clock is turned and whose parts are written by hand, and readers of its folder."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakes.results import label_set_of
from video.sinks.people import attributes, event, frame, person

from seqpar_deploy.serving.archive.live_people import LivePeopleSink
from seqpar_deploy.serving.search.expression import parse_expression
from seqpar_deploy.serving.search.query import Filters, search
from seqpar_deploy.serving.search.results import find_results, read_names
from seqpar_deploy.video.sinks.wall_clock import WallClock

UTC = datetime.timezone.utc
START = datetime.datetime(2026, 11, 30, 20, 0, tzinfo=UTC)
LABELS = label_set_of()
NAMES = tuple(attribute.name for attribute in LABELS.attributes)


class Clock:
    """A time of day to turn."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        return self.time.timestamp()

    def forward(self, **more: float) -> None:
        self.time += datetime.timedelta(**more)


class Run:
    """A sink whose parts are written by hand."""

    def __init__(self, folder: Path, clock: Clock, **options: Any) -> None:
        self.clock, self.folder = clock, folder
        self.sink = LivePeopleSink(
            folder, options.pop("labels", LABELS), clock=WallClock(live=True, now=clock), part_seconds=1e6, **options
        )

    def see(self, track: int, kind: str = "ended", yes: tuple[str, ...] = ("Hat",), stream: str = "gate-3") -> None:
        """Somebody who was first seen now."""
        self.sink.frame(frame(timestamp=1.0, stream=stream), [], {})
        names = [attribute.name for attribute in self.sink._metadata.label_set.attributes]
        self.sink.event(event(kind, person(track, stream=stream, attributes=attributes(yes, names=names))))

    def flush(self, **more: float) -> None:
        self.clock.forward(**(more or {"minutes": 5}))
        before = set(self.folder.iterdir())
        self.sink._write()
        for path in set(self.folder.iterdir()) - before:
            os.utime(path, (self.clock(), self.clock()))  # the clock of the files is turned too
        self.sink._folder.tidy(self.clock.time)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.sink.close()

    def die(self) -> None:
        """End as a kill does: only the lock is freed."""
        self.sink._folder.close()


def found(folder: Path, expression: str = "", **filters: Any) -> list[Mapping[str, Any]]:
    files = find_results([folder])
    return list(search(files, parse_expression(expression, read_names(files[0])), Filters(**filters)).rows())


def tracks(folder: Path, expression: str = "", **filters: Any) -> list[int]:
    return sorted(row["track_id"] for row in found(folder, expression, **filters))


def kinds(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in folder.glob("*.parquet"))
