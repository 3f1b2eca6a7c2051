"""Write Parquet files that are whole or absent, also after a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seqpar_deploy.files import replacing
from seqpar_deploy.serving.archive.sdk import import_parquet


def write_tables(path: Path, schema: Any, tables: Iterable[Any]) -> int:
    """Write tables beside a file's place, one row group each, flush them to the disk, and rename the file.

    Args:
        path: The file.
        schema: Schema of all tables, with the metadata of the file.
        tables: The tables. They are read one by one.

    Returns:
        Number of rows.

    Raises:
        OSError: The file cannot be written.
    """
    rows = 0
    with replacing(path) as staging:
        with import_parquet().ParquetWriter(staging, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(1, table.num_rows))
                rows += table.num_rows
        with staging.open("rb") as file:
            os.fsync(file.fileno())
    return rows
