"""The state of a job, read from its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.serving.archive.job import finished_shards, is_running, shard_file
from seqpar_deploy.serving.archive.plan import PLAN, Plan
from seqpar_deploy.serving.archive.sdk import import_parquet


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobStatus:
    """The state of a job.

    Attributes:
        inputs: The inputs listed so far.
        bundle: Digest of the bundle.
        entries: Number of pictures and videos in the plan.
        finished_entries: Number of those in finished shards.
        shards: Number of shards in the plan.
        finished_shards: Number of finished ones.
        rows: Number of rows in the results: pictures, and people of videos.
        errors: Number of rows with an error.
        running: Whether a run holds the job.
    """

    inputs: tuple[str, ...]
    bundle: str
    entries: int
    finished_entries: int
    shards: int
    finished_shards: int
    rows: int
    errors: int
    running: bool

    @property
    def finished(self) -> bool:
        """Whether all shards are finished."""
        return self.finished_shards == self.shards


def read_status(folder: Path) -> JobStatus:
    """Read the state of a job. It takes about 1 ms per finished shard.

    Args:
        folder: Folder of the job.

    Returns:
        The state.

    Raises:
        ArchiveError: The folder has no job, or a file of it is damaged.
        BackendUnavailableError: pyarrow is not installed.
    """
    plan = Plan.load(folder)
    if plan is None:
        raise ArchiveError(f"{folder} must be a job of seqpar archive, got no {PLAN}; check the path")
    finished = finished_shards(folder)
    shards = [(shard.number, shard.count) for shard in plan.shards()]
    rows = errors = 0
    for number, _ in shards:
        if number in finished:
            some, wrong = _counts(shard_file(folder, number))
            rows, errors = rows + some, errors + wrong
    return JobStatus(
        inputs=plan.inputs,
        bundle=plan.settings.bundle,
        entries=plan.entries,
        finished_entries=sum(count for number, count in shards if number in finished),
        shards=len(shards),
        finished_shards=sum(number in finished for number, _ in shards),
        rows=rows,
        errors=errors,
        running=is_running(folder),
    )


def _counts(file: Path) -> tuple[int, int]:
    """Return the rows of a file of results, and those with an error, from the statistics in its footer."""
    try:
        metadata: Any = import_parquet().read_metadata(file)
    except (OSError, ValueError):
        raise ArchiveError(f"{file} must be Parquet, got a damaged file; remove it and run the job again") from None
    errors = 0
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(metadata.num_columns - 1)  # `error` is the last one
        errors += column.num_values - column.statistics.null_count
    return metadata.num_rows, errors
