"""Names of the files of kept people, and which of them count."""

from __future__ import annotations

import datetime
from pathlib import Path

from seqpar_deploy.serving.archive.live_names import LiveFile, current, is_leftover, parse_name, superseded

WRITTEN = datetime.datetime(2026, 11, 30, 20, 0, 0, 123_000, tzinfo=datetime.timezone.utc)


def names(*kept: LiveFile) -> set[str]:
    return {file.name for file in kept}


def file(kind: str, at: str, day: str = "20261130", schema: str = "0123abcd") -> LiveFile:
    return LiveFile(kind=kind, day=day, stamp=at, schema=schema)  # type: ignore[arg-type]


def test_names_are_read_as_they_are_written() -> None:
    for kind in ("part", "open", "day"):
        made = file(kind, "20261130200000123")
        assert parse_name(made.name) == made
        assert made.written == WRITTEN
        assert is_leftover(f".{made.name}.a1b2c3d4")
        assert not is_leftover(made.name)
    for name in (
        "000000.parquet",
        "part-20261130T230000123-0123abcd.parquet.tmp",
        "part-20261331T230000123-0123abcd.parquet",
        "day-20261130T230000123-0123abcd.parquet",
        "part-20261130-20261130230000123-0123abcd.parquet",
    ):
        assert parse_name(name) is None
    assert superseded([]) == set()
    assert current([Path("b.parquet"), Path("a.parquet")]) == [Path("a.parquet"), Path("b.parquet")]


def test_a_day_supersedes_its_parts_and_a_newer_snapshot_the_older_ones() -> None:
    part, late = file("part", "20261130200000000"), file("part", "20261201000000000", day="20261201")
    day, rewritten = file("day", "20261201000000001"), file("day", "20261201020000000")
    other = file("part", "20261130200000000", schema="ffffffff")
    assert superseded([part, late, other]) == set()
    assert names(*superseded([part, late, other, day])) == names(part)
    assert names(*superseded([part, late, day, rewritten])) == names(part, day)
    first, second = file("open", "20261130200000001"), file("open", "20261130200500001")
    assert names(*superseded([part, first])) == set()
    assert names(*superseded([part, first, second])) == names(first)
    assert names(*superseded([first, late])) == names(first)  # a part comes before its snapshot
    assert superseded([first, other]) == set()
