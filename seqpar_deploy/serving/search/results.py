"""Files of results: those of archive jobs and of `seqpar video --keep-people`, checked before any row is read."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import SearchError
from seqpar_deploy.serving.archive.live_names import current
from seqpar_deploy.serving.archive.schema import ResultMetadata, result_schema
from seqpar_deploy.serving.search.arrow import import_arrow

_log = logging.getLogger(__name__)

_SHARDS = "shards"  # folder of the results in that of a job


def find_results(paths: Sequence[Path]) -> list[Path]:
    """Find files of results.

    Args:
        paths: Folders of archive jobs and of `seqpar video --keep-people`, folders of Parquet files, and Parquet files.

    Returns:
        The files, in the order of `paths`, each once. Those of a folder are sorted by name.

    Raises:
        SearchError: A path does not exist, or has no results.
    """
    return list({os.path.realpath(path): path for place in paths for path in _files_in(place)}.values())


class Schemas:
    """Checks that files have the columns of `result_schema`, once per schema and not once per file.

    Any number of threads may use one.
    """

    def __init__(self) -> None:
        self._checked: dict[frozenset[tuple[bytes, bytes]], ResultMetadata] = {}

    def check(self, path: Path, file: Any) -> ResultMetadata:
        """Return the bundle and the label set of a file.

        Args:
            path: The file, for errors.
            file: The opened `pyarrow.parquet.ParquetFile`.

        Raises:
            SearchError: A column is missing or has another type.
            ArchiveError: The file is no result of an archive job.
        """
        key = frozenset((file.metadata.metadata or {}).items())  # has the schema too, as pyarrow wrote it
        if key not in self._checked:
            self._checked[key] = _checked_metadata(path, file.schema_arrow)
        return self._checked[key]


def names_of(metadata: ResultMetadata) -> tuple[str, ...]:
    """Return the attributes of a label set, in its order."""
    return tuple(attribute.name for attribute in metadata.label_set.attributes)


def read_names(path: Path) -> tuple[str, ...]:
    """Return the attributes of a file of results. Raises as `Schemas.check`."""
    with reading(path), import_arrow().parquet.ParquetFile(path) as file:
        return names_of(Schemas().check(path, file))


def _files_in(place: Path) -> list[Path]:
    if not place.exists():
        raise SearchError(f"{place} does not exist; name a folder of seqpar archive or of --keep-people, or a file")
    if not place.is_dir():
        return [place]
    folder = place / _SHARDS if (place / _SHARDS).is_dir() else place
    try:
        files = current(path for path in folder.iterdir() if path.suffix == ".parquet" and path.name[0] != ".")
    except OSError as error:
        raise SearchError(f"{folder} cannot be read: {error.strerror}; check its permissions") from None
    if not files:
        raise SearchError(f"{folder} must have results (.parquet), got none; wait for the first file, or name another")
    return files


def _checked_metadata(path: Path, schema: Any) -> ResultMetadata:
    """Return the metadata of a file whose columns have the names and types of `result_schema`, in any order."""
    metadata = ResultMetadata.from_parquet(schema.metadata, source=str(path))
    for field in result_schema(metadata):
        place = schema.get_field_index(field.name)
        got = "none" if place < 0 else _plain(schema.field(place).type)
        if got != _plain(field.type):
            expected, got = (_short(str(each)) for each in (_plain(field.type), got))
            raise SearchError(
                f"column {field.name} of {path} must be {expected}, got {got}; name a file that seqpar archive wrote"
            )
    return metadata


def _plain(kind: Any) -> Any:
    """Return a type without what a rewritten file may change: dictionaries, and the names of list items."""
    pa = import_arrow()
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    return pa.list_(_plain(kind.value_type)) if pa.types.is_list(kind) else kind


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a failure to read a Parquet file in this block into one line. Raises SearchError."""
    pa = import_arrow()
    try:
        yield
    except FileNotFoundError:
        raise SearchError(f"{path} is gone; search again once nothing moves or removes results") from None
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        _log.debug("%s cannot be read", path, exc_info=error)
        if isinstance(error, OSError) and error.errno is not None:
            raise SearchError(f"{path} cannot be read: {os.strerror(error.errno)}; check its permissions") from None
        raise SearchError(
            f"{path} must be a Parquet file, got a damaged or another one; remove it and run seqpar archive again"
        ) from None
