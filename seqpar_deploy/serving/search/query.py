"""Find the rows that match an expression and filters. Only the columns that they need are read."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import SearchError
from seqpar_deploy.machine import usable_cores
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.serving.search.arrow import import_arrow
from seqpar_deploy.serving.search.expression import And, Expression, Has, Not, Or, Probability, StateIs, each_test
from seqpar_deploy.serving.search.results import Schemas, names_of, reading

_COMPARISONS = {"<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
_FILES_TAKEN = 16  # files that a thread takes at a time
_ROWS_TOGETHER = 65_536  # rows that are searched at once, if row groups are small
_ROWS_READ = 8192  # rows in memory at a time while matches are read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
    """Restrict a search by time and camera.

    Attributes:
        since: Earliest `captured_at`, with a time zone. Default: None, any.
        until: First `captured_at` that is too late, with a time zone. Default: None, any.
        cameras: Names of cameras, any of which may match. Default: empty, all cameras and rows without one.
    """

    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    cameras: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns that the filters read."""
        times = ["captured_at"] if self.since or self.until else []
        return [*times, *(["camera"] if self.cameras else [])]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Matches:
    """The matches in a row group, numbered from its start."""

    path: Path
    group: int
    rows: npt.NDArray[np.int64]


@dataclasses.dataclass
class _Part:
    """The matches in some files, and facts for messages."""

    matches: list[_Matches] = dataclasses.field(default_factory=list)
    searched: int = 0
    undated: int = 0
    cameras: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """Hold where the matches of a search are.

    Attributes:
        count: Matching rows.
        searched: Rows in all files, those with an error included.
        undated: Rows that match but for their unknown `captured_at`, if the filters have a time.
        cameras: Cameras in the files, if the filters have some.
    """

    count: int
    searched: int
    undated: int
    cameras: frozenset[str]
    _matches: Sequence[_Matches]

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Read the matching rows, in the order of the files.

        Args:
            columns: Columns to read. Default: all.

        Yields:
            The values by column, as `pyarrow.Table.to_pylist` returns them.

        Raises:
            SearchError: A file has been removed or changed.
        """
        parquet = import_arrow().parquet
        for path, groups in itertools.groupby(self._matches, key=lambda some: some.path):
            with reading(path), parquet.ParquetFile(path) as opened:
                for some in groups:
                    batches = opened.iter_batches(_ROWS_READ, row_groups=[some.group], columns=columns)
                    yield from _taken(path, batches, some.rows)


def search(
    files: Sequence[Path],
    expression: Expression,
    filters: Filters = Filters(),
    *,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Found:
    """Find the rows of files that match an expression and filters. Rows with an error never match.

    Args:
        files: The files, see `find_results`. They may be of several jobs: attributes are compared by name, and every
            label set must have those of the expression.
        expression: The expression, with names as in the label sets, see `parse_expression` and `read_names`.
        filters: Time and cameras. Default: any.
        on_progress: Called with the files done and their number. Default: nothing.

    Returns:
        The matches, whose rows are read on demand.

    Raises:
        SearchError: A label set lacks an attribute of the expression, or a file is damaged, lacks a column, or has been
            removed.
        ArchiveError: A file is no result of an archive job.

    Examples:
        >>> files = find_results([Path("jobs/november")])
        >>> found = search(files, parse_expression("backpack and not hat", read_names(files[0])))
        >>> for row in found.rows(["id", "captured_at"]):
        ...     print(row["id"])
    """
    searcher = _Searcher(expression, filters, alone=len(files) == 1)
    taken = [files[start : start + _FILES_TAKEN] for start in range(0, len(files), _FILES_TAKEN)]
    parts: list[_Part] = []
    pool = ThreadPoolExecutor(usable_cores())
    try:
        for part in pool.map(searcher.search, taken):
            parts.append(part)
            on_progress(min(len(parts) * _FILES_TAKEN, len(files)), len(files))
    finally:
        pool.shutdown(cancel_futures=True)
    matches = [some for part in parts for some in part.matches]
    return Found(
        count=sum(len(some.rows) for some in matches),
        searched=sum(part.searched for part in parts),
        undated=sum(part.undated for part in parts),
        cameras=frozenset(camera for part in parts for camera in part.cameras),
        _matches=matches,
    )


def _taken(path: Path, batches: Iterator[Any], wanted: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Yield the wanted rows of a row group that is read in batches."""
    start = 0
    while len(wanted):
        batch = next(batches, None)
        if batch is None:
            raise SearchError(f"{path} has changed during the search; search again")
        inside = int(np.searchsorted(wanted, start + len(batch)))
        yield from batch.take(import_arrow().array(wanted[:inside] - start)).to_pylist()
        start, wanted = start + len(batch), wanted[inside:]


class _Searcher:
    """Searches some files. Threads share one."""

    def __init__(self, expression: Expression, filters: Filters, *, alone: bool) -> None:
        self._pa = import_arrow()
        self._schemas = Schemas()
        self._expression, self._filters, self._alone = expression, filters, alone
        tests = tuple(each_test(expression))
        self._needed = tuple(dict.fromkeys(test.attribute for test in tests))
        self._columns = [*(dict.fromkeys(map(_column, tests)) or ["error"]), *filters.columns]

    def search(self, paths: Sequence[Path]) -> _Part:
        """Search files. Small row groups are searched together, which saves a fifth of the time."""
        part = _Part()
        waiting: list[tuple[Path, int, Any]] = []
        rows = 0
        for group in (group for path in paths for group in self._groups(path)):
            waiting.append(group)
            rows += len(group[2])
            if rows >= _ROWS_TOGETHER:
                self._add(waiting, part)
                waiting, rows = [], 0
        self._add(waiting, part)
        return part

    def _groups(self, path: Path) -> Iterator[tuple[Path, int, Any]]:
        """Yield the needed columns of each row group. The file is opened once: its footer takes most of the time."""
        with reading(path), self._pa.parquet.ParquetFile(path) as opened:
            metadata = self._schemas.check(path, opened)
            if missing := set(self._needed) - set(names_of(metadata)):
                raise SearchError(
                    f"every label set must have the attribute {min(missing)}, got {metadata.label_set.name} in {path} "
                    "without it; search these results on their own"
                )
            for number in range(opened.num_row_groups):
                table = opened.read_row_group(number, columns=self._columns, use_threads=self._alone)
                yield path, number, table.replace_schema_metadata(None)

    def _add(self, groups: Sequence[tuple[Path, int, Any]], part: _Part) -> None:
        """Add the matches in row groups to a part. Those of one schema are searched at once."""
        for _, some in itertools.groupby(groups, key=lambda group: group[2].schema):
            same = list(some)
            found, undated, cameras = self._matches(self._pa.concat_tables([table for _, _, table in same]))
            part.undated += undated
            part.cameras |= cameras
            start = 0
            for path, number, table in same:
                first, last = np.searchsorted(found, (start, start + len(table)))
                if last > first:
                    part.matches.append(_Matches(path=path, group=number, rows=found[first:last] - start))
                start += len(table)
            part.searched += start

    def _matches(self, table: Any) -> tuple[npt.NDArray[np.int64], int, set[str]]:
        """Return the matching rows of a table, the number of those that lack a time, and the cameras."""
        pa, pc, filters = self._pa, self._pa.compute, self._filters
        values = _fields(pa, table)
        mask = _truth(pa, self._expression, values) if self._needed else pc.is_null(values["error"])
        known: set[str] = set()
        if filters.cameras:
            mask = pc.and_kleene(mask, pc.is_in(values["camera"], pa.array(filters.cameras)))
            known = set(pc.unique(values["camera"]).to_pylist()) - {None}
        undated = 0
        if filters.since or filters.until:
            times = values["captured_at"]
            undated = pc.sum(pc.and_kleene(mask, pc.is_null(times))).as_py() or 0
            for limit, compare in ((filters.since, pc.greater_equal), (filters.until, pc.less)):
                if limit:
                    mask = pc.and_kleene(mask, compare(times, pa.scalar(limit, times.type)))
        found: npt.NDArray[np.int64] = pc.indices_nonzero(pc.fill_null(mask, False)).to_numpy().astype(np.int64)
        return found, undated, known


def _column(test: Has | StateIs | Probability) -> str:
    return f"{'probabilities' if isinstance(test, Probability) else 'states'}.{test.attribute}"


def _fields(pa: Any, table: Any) -> dict[str, Any]:
    """Return the columns of a table by name, and the fields of structs as `states.Hat`."""
    found: dict[str, Any] = {}
    for name, kind, column in zip(table.column_names, table.schema.types, table.columns, strict=True):
        found[name] = column
        if pa.types.is_struct(kind):
            for place, field in enumerate(kind):
                found[f"{name}.{field.name}"] = pa.compute.struct_field(column, [place])
    return found


def _truth(pa: Any, expression: Expression, values: Mapping[str, Any]) -> Any:
    """Return true, false or null for unknown, per row."""
    pc = pa.compute
    if isinstance(expression, Not):
        return pc.invert(_truth(pa, expression.operand, values))
    if isinstance(expression, (And, Or)):
        combine = pc.and_kleene if isinstance(expression, And) else pc.or_kleene
        return functools.reduce(combine, (_truth(pa, operand, values) for operand in expression.operands))
    column = values[_column(expression)]
    if isinstance(expression, Probability):
        return getattr(pc, _COMPARISONS[expression.operator])(column, pa.scalar(expression.value, column.type))
    if isinstance(expression, StateIs):
        return pc.equal(column, expression.state)
    return pc.if_else(pc.equal(column, "unknown"), None, pc.equal(column, "yes"))
