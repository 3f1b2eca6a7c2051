"""The commands and queries of docs/how-to/search-an-archive.md, on rows for which the answers are known."""

from __future__ import annotations

import datetime
import json
import re
import shlex
from pathlib import Path

import duckdb
import pytest
from cli.run import run
from fakes.results import UTC, row, write_results

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "search-an-archive.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.S)


@pytest.fixture(autouse=True)
def november(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of which those numbered 1 and 4 are women with a backpack, at gate 3, in the last week."""
    now = datetime.datetime.now(UTC).replace(microsecond=0)
    day = datetime.timedelta(days=1)
    both = {"Female": "yes", "Backpack": "yes"}
    rows = [
        row(0, both, camera="gate-3", captured_at=now - 8 * day),
        row(1, both, camera="gate-3", captured_at=now - 6 * day),
        row(2, both, camera="gate-2", captured_at=now - day),
        row(3, {"Female": "yes"}, camera="gate-3", captured_at=now - day),
        row(4, {"Backpack": "yes"}, probabilities={"Female": 0.85}, camera="gate-3", captured_at=now - day),
        row(5, both, probabilities={"Female": 0.79}, camera="gate-3", captured_at=now - day),
        row(6, {"Female": "yes", "Backpack": "unknown"}, camera="gate-3", captured_at=now - day),
        row(7, both, camera="gate-3"),
        row(8, None, camera="gate-3", captured_at=now - day),
    ]
    for number in range(3):
        write_results(tmp_path / "jobs" / "november" / "shards" / f"{number:06d}.parquet", rows[number::3])
    monkeypatch.chdir(tmp_path)


def test_the_command_and_the_query_find_the_same() -> None:
    (command,) = re.findall(r"^\$ (seqpar search .*)$", PAGE, re.M)
    found = [json.loads(line)["id"] for line in run(*shlex.split(command), "--json").stdout.splitlines()]
    assert sorted(found) == ["crops/000001.png", "crops/000004.png"]
    rows = duckdb.sql(QUERIES[0]).fetchall()
    assert [identity for _, identity, _ in rows] == sorted(found)
    assert [female for _, _, female in rows] == pytest.approx([0.9, 0.85])


def test_the_other_query_counts() -> None:
    counts = {(camera, day): (seen, packs) for camera, day, seen, packs in duckdb.sql(QUERIES[1]).fetchall()}
    assert sum(seen for seen, _ in counts.values()) == 8
    assert sum(packs for _, packs in counts.values()) == 6
    assert {camera for camera, _ in counts} == {"gate-2", "gate-3"}
    assert len(QUERIES) == 2


@pytest.mark.parametrize("expression", re.findall(r"^\| (`.*?) \|", PAGE, re.M))
def test_the_expressions_of_the_table_are_right(expression: str) -> None:
    examples = [text for text in re.findall(r"`(.*?)`", expression) if text != "expression"]
    assert examples
    for text in examples:
        run("seqpar", "search", "jobs/november", "" if text == "''" else text)
