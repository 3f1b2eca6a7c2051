"""The folder of a live run's people: parts of some minutes, compacted per day, each file whole or absent."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from seqpar_deploy.errors import SinkError
from seqpar_deploy.files import why_not_written
from seqpar_deploy.serving.archive.live_names import LiveFile, is_leftover, parse_name, stamp_of, superseded
from seqpar_deploy.serving.archive.parquet_files import write_tables
from seqpar_deploy.serving.archive.schema import ResultMetadata
from seqpar_deploy.serving.archive.sdk import import_compute, import_pyarrow

_LOCK = ".lock"
_ROWS = 8192  # rows per row group of a day: about 2 MB in memory for 50 attributes
_FILTER_EVERY = 3600.0  # seconds between two rewritings of the day in which the retention ends
_CLOSING = 1.0  # seconds to wait for a hung write before the lock is left to the end of the process
_DAY = datetime.timedelta(days=1)


class LiveFolder:
    """Writes, compacts and deletes the files of one folder. One run may hold it at a time. Thread-safe.

    Files with other names are never touched.

    Args:
        folder: The folder. It is made if it is missing.
        metadata: Bundle and label set of the people of this run.

    Raises:
        SinkError: The folder cannot be written, or another run holds it.
    """

    def __init__(self, folder: Path, metadata: ResultMetadata) -> None:
        self.path = folder
        content = b"\0".join(value for pair in sorted(metadata.to_parquet().items()) for value in pair)
        self._schema = hashlib.sha256(content).hexdigest()[:8]
        self._mutex = threading.Lock()
        self._old: set[LiveFile] = set()  # superseded in the last round
        self._filtered: dict[LiveFile, datetime.datetime] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            try:
                self._recover()
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            why = why_not_written(error, folder) or error.strerror
            raise SinkError(f"{folder} cannot be written: {why}") from None

    def write(self, kind: Literal["part", "open"], table: Any, now: datetime.datetime) -> None:
        """Write people whose tracks have ended, or all those whose tracks are open, in place of earlier ones.

        Write a part before the open file. Then nobody is in both, at no moment.

        Args:
            kind: The kind of file.
            table: A table of the schema.
            now: The present time.

        Raises:
            OSError: The file cannot be written.
        """
        with self._mutex:
            stamp = self._next_stamp(now, self._files())
            file = LiveFile(kind=kind, day=stamp[:8], stamp=stamp, schema=self._schema)
            write_tables(self.path / file.name, table.schema, [table])

    def tidy(self, now: datetime.datetime) -> None:
        """Compact past days, and remove the files that were superseded before the last call.

        Raises:
            OSError: A file cannot be read or written.
            SinkError: A file is damaged. All days without such a file are compacted.
        """
        today = stamp_of(now)[:8]
        with self._mutex:
            files = self._files()
            old = superseded(files)
            for file in old & self._old:
                self._remove(file)
                files.remove(file)
            groups: dict[tuple[str, str], list[LiveFile]] = {}
            for file in sorted(files - old):
                if file.kind == "part" and file.written > now + _DAY:
                    file = self._dated_back(file, files, today)
                if file.kind == "part" and file.day < today:
                    groups.setdefault((file.day, file.schema), []).append(file)
            failures: list[Exception] = []
            for (day, schema), parts in groups.items():
                try:
                    self._write_day(day, schema, parts, now)
                except (OSError, SinkError) as error:
                    failures.append(error)
            self._old = superseded(self._files())
        if failures:
            raise failures[0]

    def delete_before(self, time: datetime.datetime, now: datetime.datetime) -> int:
        """Delete people of before a time: files that are older, and rows of the day in which the time lies.

        Returns:
            Number of files deleted or shortened.
        """
        deleted = 0
        with self._mutex:
            files = self._files()
            for file in sorted(files):
                ends = file.begins + _DAY if file.kind == "day" else self._written_at(file)
                if ends <= time:
                    self._remove(file)
                    deleted += 1
            for file in sorted(files - superseded(files)):
                if file.kind == "day" and file.begins < time < file.begins + _DAY:
                    deleted += self._shorten(file, time, now)
            self._filtered = {file: at for file, at in self._filtered.items() if file in files}
        return deleted

    def close(self) -> None:
        """Let other runs use the folder, or leave that to the end of the process if a file is still being written."""
        if not self._mutex.acquire(timeout=_CLOSING):
            return
        try:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1
        finally:
            self._mutex.release()

    def _files(self) -> set[LiveFile]:
        return {file for name in os.listdir(self.path) if (file := parse_name(name)) is not None}

    def _next_stamp(self, now: datetime.datetime, files: set[LiveFile]) -> str:
        """Return the stamp of new files: later than all others, and of a day that is not compacted.

        The clock may have been set back. A part of a compacted day would be taken for one that the day has.
        """
        same = [file for file in files if file.schema == self._schema]
        for file in same:
            if file.kind == "day":
                now = max(now, file.begins + _DAY)
            elif now.timestamp() - file.written.timestamp() < 0.001:
                now = file.written + datetime.timedelta(milliseconds=1)
        return stamp_of(now)

    def _written_at(self, file: LiveFile) -> datetime.datetime:
        """Return when a part or an open file was written.

        One stamp of a clock that was ahead makes all later stamps too late. The times of the files are right again.
        """
        try:
            modified = (self.path / file.name).stat().st_mtime
        except FileNotFoundError:
            return file.written
        return datetime.datetime.fromtimestamp(min(file.written.timestamp(), modified), datetime.timezone.utc)

    def _dated_back(self, part: LiveFile, files: set[LiveFile], today: str) -> LiveFile:
        """Rename a part of a past day whose stamp is far ahead, so that it is compacted. Return the new file or `part`.

        It gets a day that is not compacted. It keeps its name while it supersedes an open file.
        """
        time = self._written_at(part)
        compacted = {file.day for file in files if file.kind == "day" and file.schema == part.schema}
        if stamp_of(time)[:8] >= today or any(
            file.kind == "open" and file.schema == part.schema and file.stamp < part.stamp for file in files
        ):
            return part
        while True:
            new = LiveFile(kind="part", day=stamp_of(time)[:8], stamp=stamp_of(time), schema=part.schema)
            if new.day not in compacted and new not in files:
                break
            time += _DAY if new.day in compacted else datetime.timedelta(milliseconds=1)
        if new.stamp >= part.stamp:
            return part
        os.rename(self.path / part.name, self.path / new.name)
        files.remove(part)
        files.add(new)
        return new

    def _remove(self, file: LiveFile) -> None:
        (self.path / file.name).unlink(missing_ok=True)

    def _write_day(self, day: str, schema: str, parts: list[LiveFile], now: datetime.datetime) -> None:
        tables = (table for part in parts for table in self._tables(part))
        self._write(LiveFile(kind="day", day=day, stamp=stamp_of(now), schema=schema), parts[0], tables)

    def _shorten(self, file: LiveFile, time: datetime.datetime, now: datetime.datetime) -> int:
        """Rewrite a day without the people of before a time. People without a time of day stay until the day goes."""
        last = self._filtered.get(file)
        if last is not None and (now - last).total_seconds() < _FILTER_EVERY:
            return 0
        pc = import_compute()

        def keeps(table: Any) -> Any:
            column = table["captured_at"]
            return pc.fill_null(pc.greater_equal(column, import_pyarrow().scalar(time, column.type)), True)

        rows = [(table.num_rows, pc.sum(keeps(table)).as_py() or 0) for table in self._tables(file)]
        if all(all_ == kept for all_, kept in rows):
            self._filtered[file] = now
            return 0
        new = LiveFile(kind="day", day=file.day, stamp=max(stamp_of(now), f"{int(file.stamp) + 1}"), schema=file.schema)
        self._write(new, file, (table.filter(keeps(table)) for table in self._tables(file)))
        self._filtered[new] = now
        self._remove(file)  # at once: it holds people that must be gone
        return 1

    def _write(self, file: LiveFile, like: LiveFile, tables: Iterable[Any]) -> None:
        """Write a file with the schema and the metadata of another one."""
        with self._opened(like) as opened:
            schema = opened.schema_arrow
        write_tables(self.path / file.name, schema, _grouped(tables, schema))

    def _tables(self, file: LiveFile) -> Iterator[Any]:
        pa = import_pyarrow()
        with self._opened(file) as opened:
            for batch in opened.iter_batches(_ROWS):
                yield pa.Table.from_batches([batch], schema=opened.schema_arrow)

    @contextlib.contextmanager
    def _opened(self, file: LiveFile) -> Iterator[Any]:
        """Open a Parquet file. Raises SinkError, which names the file, if it is damaged, also while it is read."""
        pa = import_pyarrow()
        try:
            with pa.parquet.ParquetFile(self.path / file.name) as opened:
                yield opened
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the file's content
                raise
            raise SinkError(f"{self.path / file.name} must be a Parquet file, got a damaged one; remove it") from None

    def _recover(self) -> None:
        """Remove what killed runs were writing, and keep the people who were in view when they were killed."""
        for name in os.listdir(self.path):
            if is_leftover(name):
                (self.path / name).unlink(missing_ok=True)
        files = self._files()
        for file in sorted(files):
            if file.kind == "open":
                self._close_open(file, files)
                self._remove(file)

    def _close_open(self, file: LiveFile, files: set[LiveFile]) -> None:
        """Write the people of an open file as a part, without those whose tracks ended afterwards."""
        pa = import_pyarrow()
        later = [one for one in files if one.kind != "open" and one.schema == file.schema and one.stamp >= file.stamp]
        later += [one for one in files if one.kind == "open" and one.schema == file.schema and one.stamp > file.stamp]
        known: set[str] = set()
        for one in later:
            with self._opened(one) as opened:
                known.update(opened.read(columns=["id"])["id"].to_pylist())
        table = pa.concat_tables(list(self._tables(file)))
        table = table.filter(pa.array([id_ not in known for id_ in table["id"].to_pylist()], type=pa.bool_()))
        if table.num_rows:
            day = max([file.day, *(_after(one) for one in files if one.kind == "day" and one.schema == file.schema)])
            stamp = file.stamp if day == file.day else f"{day}000000000"
            while (part := LiveFile(kind="part", day=stamp[:8], stamp=stamp, schema=file.schema)) in files:
                stamp = f"{int(stamp) + 1}"
            write_tables(self.path / part.name, table.schema, [table])
            files.add(part)


def _after(file: LiveFile) -> str:
    return stamp_of(file.begins + _DAY)[:8]


def _grouped(tables: Iterable[Any], schema: Any) -> Iterator[Any]:
    """Join small tables, so that a day has few row groups."""
    pa = import_pyarrow()
    waiting: list[Any] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows >= _ROWS:
            yield pa.concat_tables(waiting)
            waiting, rows = [], 0
    yield pa.concat_tables(waiting) if waiting else schema.empty_table()


def _locked(folder: Path) -> int:
    """Lock a folder until the descriptor is closed or the process ends. Raises SinkError if another run holds it."""
    import fcntl  # missing on Windows

    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise SinkError(
            f"{folder} must be written by one run at a time, got another one; name another folder"
        ) from None
    except OSError as error:
        os.close(handle)
        raise SinkError(f"{folder} cannot be locked: {error.strerror}; choose a folder on another disk") from None
    return handle
