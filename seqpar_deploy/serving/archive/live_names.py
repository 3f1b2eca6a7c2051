"""Names of the files of a live run's people, and which of them count.

A folder is read while it is written, and a kill may come between any two steps. So no file is ever replaced: a newer
one supersedes older ones by its name, and those are removed a round later.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

Kind = Literal["part", "open", "day"]

_NAME = re.compile(r"(part|open|day)-(\d{8})(?:T|-)(\d{9}|\d{17})-([0-9a-f]{8})\.parquet")
_LEFTOVER = re.compile(r"\.(.+\.parquet)\.\w{8}")  # as `files.replacing` names what it writes


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class LiveFile:
    """A file of people.

    Attributes:
        kind: `part` has people whose tracks ended in some minutes, `open` those whose tracks were open at its stamp,
            and `day` those of all parts of a day.
        day: Day (UTC) in which the parts were written, for example 20261130.
        stamp: Time of writing (UTC) to the millisecond, for example 20261130081000123.
        schema: First digits of a hash of bundle and label set. One file has people of one label set only.
    """

    kind: Kind
    day: str
    stamp: str
    schema: str

    @property
    def name(self) -> str:
        if self.kind == "day":
            return f"day-{self.day}-{self.stamp}-{self.schema}.parquet"
        return f"{self.kind}-{self.stamp[:8]}T{self.stamp[8:]}-{self.schema}.parquet"

    @property
    def written(self) -> datetime.datetime:
        """The time of writing."""
        seconds = datetime.datetime.strptime(self.stamp[:14], "%Y%m%d%H%M%S").replace(tzinfo=datetime.timezone.utc)
        return seconds + datetime.timedelta(milliseconds=int(self.stamp[14:]))

    @property
    def begins(self) -> datetime.datetime:
        """The start of its day."""
        return datetime.datetime.strptime(self.day, "%Y%m%d").replace(tzinfo=datetime.timezone.utc)


def stamp_of(time: datetime.datetime) -> str:
    """Return a time as it is in a name."""
    utc = time.astimezone(datetime.timezone.utc)
    return f"{utc.strftime('%Y%m%d%H%M%S')}{utc.microsecond // 1000:03d}"


def parse_name(name: str) -> LiveFile | None:
    """Return the file of a name, or None if a live run does not write such a name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    kind, day, rest, schema = found.groups()
    if (kind == "day") != (len(rest) == 17):
        return None
    file = LiveFile(kind=kind, day=day, stamp=rest if kind == "day" else day + rest, schema=schema)  # type: ignore[arg-type]
    try:
        assert file.written
        assert file.begins
    except ValueError:  # no date
        return None
    return file if file.name == name else None


def is_leftover(name: str) -> bool:
    """Return whether a name is of a file that a killed run was writing."""
    found = _LEFTOVER.fullmatch(name)
    return found is not None and parse_name(found[1]) is not None


def superseded(files: Iterable[LiveFile]) -> set[LiveFile]:
    """Return the files whose people are in other files of a folder.

    - The newest file of a day supersedes its parts and its older files.
    - The newest part or open file supersedes all earlier open files.
    """
    files = list(files)
    days: dict[tuple[str, str], str] = {}
    latest: dict[str, str] = {}
    for file in files:
        if file.kind == "day":
            key = file.day, file.schema
            days[key] = max(days.get(key, ""), file.stamp)
        else:
            latest[file.schema] = max(latest.get(file.schema, ""), file.stamp)

    def is_old(file: LiveFile) -> bool:
        if file.kind == "open":
            return file.stamp < latest[file.schema]
        newest = days.get((file.day, file.schema))
        return newest is not None and (file.kind == "part" or file.stamp < newest)

    return {file for file in files if is_old(file)}


def current(paths: Iterable[Path]) -> list[Path]:
    """Return the files of a folder that count, sorted by name. Files with names of others all do."""
    known = {path: parse_name(path.name) for path in paths}
    old = superseded(file for file in known.values() if file is not None)
    return sorted(path for path, file in known.items() if file not in old)
