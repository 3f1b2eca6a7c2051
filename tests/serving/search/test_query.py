"""Searches against a second, slow implementation, and files that are not as they should be."""

from __future__ import annotations

import datetime
import json
import operator
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.results import NAMES, UTC, label_set_of, random_rows, row, write_results

from seqpar_deploy.errors import ArchiveError, SearchError
from seqpar_deploy.serving.search.expression import (
    And,
    Expression,
    Has,
    Not,
    Or,
    StateIs,
    parse_expression,
)
from seqpar_deploy.serving.search.query import Filters, search
from seqpar_deploy.serving.search.results import find_results, read_names

COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NOVEMBER = datetime.datetime(2026, 11, 1, tzinfo=UTC)


def truth(expression: Expression, values: Mapping[str, Any]) -> bool | None:
    """Kleene's logic, one row at a time."""
    if values["states"] is None:
        return None
    if isinstance(expression, Not):
        inner = truth(expression.operand, values)
        return None if inner is None else not inner
    if isinstance(expression, (And, Or)):
        inside = [truth(operand, values) for operand in expression.operands]
        decisive = isinstance(expression, Or)
        return decisive if decisive in inside else None if None in inside else not decisive
    state = values["states"][expression.attribute]
    if isinstance(expression, Has):
        return {"yes": True, "no": False, "unknown": None}[state]
    if isinstance(expression, StateIs):
        return bool(state == expression.state)
    limit = float(np.float32(expression.value))  # as probabilities are stored
    return COMPARE[expression.operator](values["probabilities"][expression.attribute], limit)


def random_expression(draw: random.Random, depth: int = 3) -> str:
    if depth and draw.random() < 0.7:
        inside = [random_expression(draw, depth - 1) for _ in range(draw.choice((1, 2, 2, 3)))]
        return f"not ({inside[0]})" if len(inside) == 1 else f"({draw.choice((' and ', ' or ')).join(inside)})"
    name = f"'{draw.choice(NAMES)}'"
    tests = (
        "",
        "",
        f"={draw.choice(('yes', 'no', 'unknown'))}",
        f"{draw.choice([*COMPARE])}{draw.randrange(101) / 100}",
    )
    return name + draw.choice(tests)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    for number in range(3):
        path = folder / "shards" / f"{number:06d}.parquet"
        write_results(path, random_rows(150, number), row_group_size=40)
    (folder / "shards" / ".000003.parquet.part").touch()  # being written
    return folder


@pytest.fixture(scope="module")
def rows(job: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(job.glob("shards/*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("seed", range(40))
def test_any_expression_finds_what_the_slow_way_finds(job: Path, rows: list[dict[str, Any]], seed: int) -> None:
    draw = random.Random(seed)
    files = find_results([job])
    expression = parse_expression(random_expression(draw), read_names(files[0]))
    since = draw.choice((None, NOVEMBER + datetime.timedelta(days=draw.randrange(28))))
    until = draw.choice((None, NOVEMBER + datetime.timedelta(days=draw.randrange(28))))
    cameras = draw.choice(((), (), ("gate-1",), ("gate-2", "gate-3"), ("gate-9",)))
    of_camera = [one for one in rows if truth(expression, one) and (not cameras or one["camera"] in cameras)]
    expected = [
        one
        for one in of_camera
        if (since is None or (one["captured_at"] is not None and one["captured_at"] >= since))
        and (until is None or (one["captured_at"] is not None and one["captured_at"] < until))
    ]
    found = search(files, expression, Filters(since=since, until=until, cameras=cameras))
    assert list(found.rows()) == expected
    assert (found.count, found.searched) == (len(expected), len(rows))
    timed = since or until
    assert found.undated == (sum(one["captured_at"] is None for one in of_camera) if timed else 0)
    assert found.cameras == (frozenset(f"gate-{number}" for number in (1, 2, 3)) if cameras else frozenset())


def test_an_empty_expression_finds_all_but_errors(job: Path, rows: list[dict[str, Any]]) -> None:
    found = search(find_results([job]), parse_expression("", NAMES))
    assert [one["id"] for one in found.rows(["id"])] == [one["id"] for one in rows if one["error"] is None]
    assert 0 < found.count < found.searched


def test_a_probability_is_compared_as_it_was_written(tmp_path: Path) -> None:
    """0.8 is stored as 0.800000011920929."""
    path = write_results(tmp_path / "a.parquet", [row(0, {}, probabilities={"Hat": 0.8})])
    counts = {
        text: search(find_results([path]), parse_expression(text, NAMES)).count
        for text in ("hat>0.8", "hat>=0.8", "hat<=80%", "hat<0.8")
    }
    assert counts == {"hat>0.8": 0, "hat>=0.8": 1, "hat<=80%": 1, "hat<0.8": 0}


def test_a_rewritten_file_is_still_one(tmp_path: Path, job: Path) -> None:
    """Dictionaries, other groups of rows, another order of columns."""
    table = pq.read_table(job / "shards" / "000000.parquet")
    columns = [*reversed(table.column_names)]
    camera = table.schema.get_field_index("camera")
    changed = table.set_column(camera, "camera", table["camera"].dictionary_encode()).select(columns)
    pq.write_table(changed, tmp_path / "new.parquet", row_group_size=7)
    expression = parse_expression("hat or female>0.3", NAMES)
    filters = Filters(cameras=("gate-2",))
    one, two = (
        search(find_results([path]), expression, filters) for path in (job / "shards" / "000000.parquet", tmp_path)
    )
    assert one.count > 0
    assert list(one.rows()) == list(two.rows())


def test_jobs_of_several_label_sets_are_searched_by_name(tmp_path: Path) -> None:
    names = ("Backpack", "Scarf", "Hat")
    write_results(tmp_path / "a.parquet", [row(0, {"Hat": "yes"}), row(1, {})])
    write_results(tmp_path / "b.parquet", [row(2, {"Hat": "yes"}, names=names)], label_set_of(names, "winter"))
    files = find_results([tmp_path])
    assert [read_names(file) for file in files] == [NAMES, names]
    found = search(files, parse_expression("hat", read_names(files[0])))
    assert [one["source"] for one in found.rows()] == ["crops/000000.png", "crops/000002.png"]
    for name, label_set in (("scarf", "street"), ("female", "winter")):
        with pytest.raises(SearchError, match=f"{name.title()}.*{label_set}"):
            search(files, parse_expression(f"hat or {name}", tuple(dict.fromkeys((*NAMES, *names)))))


def test_a_file_counts_once(job: Path) -> None:
    again = [job, job / "shards", job / "shards" / "000001.parquet"]
    assert find_results(again) == find_results([job])
    assert len(find_results(again)) == 3


@pytest.mark.parametrize("kind", ["missing", "empty folder", "folder of others"])
def test_places_without_results_are_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "job"
    if kind != "missing":
        place.mkdir()
    if kind == "folder of others":
        (place / "notes.txt").touch()
        (place / ".000000.parquet").touch()
    with pytest.raises(SearchError, match=r"job.*; "):
        find_results([place])


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("id,source\n1,2\n")
    elif how == "footer":
        path.write_bytes(content[:-200] + bytes(192) + content[-8:])
    elif how == "other parquet":
        pq.write_table(pa.table({"id": ["a"], "source": ["b"]}), path)
    elif how == "newer":
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"seqpar.format": b"2"}), path)
    elif how == "label set":
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"seqpar.label_set": b"{"}), path)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "footer", "other parquet", "newer", "label set"])
@pytest.mark.parametrize("place", [0, 1])
def test_files_that_are_no_results_are_named(tmp_path: Path, how: str, place: int) -> None:
    for number in range(2):
        write_results(tmp_path / f"{number}.parquet", random_rows(20, number))
    damaged(tmp_path / f"{place}.parquet", how)
    with pytest.raises((SearchError, ArchiveError)) as caught:
        search(find_results([tmp_path]), parse_expression("hat", NAMES))
    assert f"{place}.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["camera", "states", "captured_at", "probabilities", "id"])
@pytest.mark.parametrize("how", ["missing", "of another type"])
def test_columns_must_be_those_of_the_schema(tmp_path: Path, column: str, how: str) -> None:
    path = write_results(tmp_path / "a.parquet", random_rows(20, 0))
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    numbers = pa.array([1] * 20)
    table = table.remove_column(place) if how == "missing" else table.set_column(place, column, numbers)
    pq.write_table(table, path)
    with pytest.raises(SearchError, match=rf"column {column} of .*a\.parquet"):
        search([path], parse_expression("hat", NAMES))


@pytest.mark.parametrize("when", ["before the search", "before its rows are read"])
@pytest.mark.parametrize("how", ["removed", "cut", "pages"])
def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path, when: str, how: str) -> None:
    for number in range(2):
        write_results(tmp_path / f"{number}.parquet", random_rows(200, number), compression="zstd")
    files = find_results([tmp_path])
    expression = parse_expression("hat", NAMES)
    found = search(files, expression) if when == "before its rows are read" else None
    path = tmp_path / "1.parquet"
    if how == "removed":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.write_bytes(b"PAR1" + random.Random(0).randbytes(path.stat().st_size - 4))
    with pytest.raises(SearchError) as caught:
        list((found or search(files, expression)).rows())
    assert "1.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_progress_counts_the_files(job: Path) -> None:
    calls: list[tuple[int, int]] = []
    search(find_results([job]), parse_expression("hat", NAMES), on_progress=lambda *call: calls.append(call))
    assert calls == [(3, 3)]  # a thread takes several files at a time


def test_the_label_set_is_that_of_the_file(job: Path) -> None:
    for path in find_results([job]):
        stored = json.loads(pq.read_metadata(path).metadata[b"seqpar.label_set"])
        assert [attribute["name"] for attribute in stored["attributes"]] == list(read_names(path)) == list(NAMES)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_file_that_was_replaced_by_a_shorter_one_is_named(tmp_path: Path, groups: int) -> None:
    rows = [row(number, {"Hat": "yes"}) for number in range(300)]
    path = write_results(tmp_path / "a.parquet", rows, row_group_size=300 // groups)
    found = search([path], parse_expression("hat", NAMES))
    assert found.count == 300
    write_results(path, rows[:50])
    with pytest.raises(SearchError, match=r"a\.parquet"):
        list(found.rows())


def test_row_groups_of_any_size_are_searched_together(tmp_path: Path) -> None:
    """Matches of small and large row groups keep their rows and their order."""
    draw = random.Random(0)
    sizes = [1, 70_000, 3, 0, 40_000, 40_000, 2]
    expected, number = [], 0
    for place, size in enumerate(sizes):
        hits = sorted(draw.sample(range(size), min(size, 5)))
        ids = [f"{number + i}" for i in range(size)]
        number += size
        states = [{"Hat": "yes"} if i in hits else {} for i in range(size)]
        some = [row(i, state, id=ids[i]) for i, state in enumerate(states)]
        write_results(tmp_path / f"{place}.parquet", some, row_group_size=max(1, size // 2))
        expected += [ids[i] for i in hits]
    found = search(find_results([tmp_path]), parse_expression("hat", NAMES))
    assert [one["id"] for one in found.rows(["id"])] == expected
    assert found.searched == sum(sizes)
