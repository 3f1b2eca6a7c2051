"""After the last shard: drift, and the most uncertain pictures, from the files of results."""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seqpar_deploy.calibration.drift import DriftMonitor, DriftReport
from seqpar_deploy.calibration.maps import Floats
from seqpar_deploy.calibration.sidecar import Calibration
from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.serving.archive.job import shard_file
from seqpar_deploy.serving.archive.plan import EntryReader, Plan
from seqpar_deploy.serving.archive.reading import read_pictures
from seqpar_deploy.serving.archive.sdk import import_parquet
from seqpar_deploy.video.uncertain_crops import UncertainCrops, uncertainty
from seqpar_deploy.vocab import LabelSet


def drift_of(
    folder: Path, plan: Plan, calibration: Calibration, label_set: LabelSet, on_progress: OnProgress
) -> DriftReport:
    """Compare the probabilities of all pictures with those of the calibration set.

    People of videos are left out: their probabilities are of several crops, those of calibration sets of one.

    Args:
        folder: Folder of a finished job.
        plan: Its plan.
        calibration: Calibration of the bundle.
        label_set: Label set of the bundle.
        on_progress: Called with (shards read, all shards).

    Returns:
        The report.

    Raises:
        CalibrationError: The calibration set has no people.
    """
    monitor = DriftMonitor(calibration, label_set)
    for _, probabilities in _pictures(folder, plan, on_progress):
        monitor.add(probabilities)
    monitor.look()
    return monitor.report()


def write_uncertain(
    folder: Path,
    plan: Plan,
    out: Path,
    most: int,
    label_set: LabelSet,
    thresholds: Thresholds | None,
    on_progress: OnProgress,
) -> bool:
    """Write the most uncertain pictures as a table to label, see `UncertainCrops`. Pictures are read again.

    Args:
        folder: Folder of a finished job.
        plan: Its plan.
        out: The folder to write. It must not exist.
        most: Number of pictures to keep.
        label_set: Label set of the bundle.
        thresholds: Thresholds of the states. None for 0.5.
        on_progress: Called with (shards read, all shards).

    Returns:
        Whether there was a picture.

    Raises:
        SinkError: The folder exists, or cannot be written.
    """
    crops = UncertainCrops(out, most, label_set, thresholds)
    found = (
        (uncertainty(probabilities, thresholds), -number, place)
        for number, (place, probabilities) in enumerate(_pictures(folder, plan, on_progress))
    )
    reader = EntryReader(folder)
    shards = {shard.number: shard for shard in plan.shards()}
    for value, _, (shard, row) in sorted(heapq.nlargest(most, found), key=lambda one: one[2]):
        entry = reader.read(shards[shard])[row]
        for _, picture in read_pictures([entry]):
            if not isinstance(picture, str):
                crops.add((entry.id, 1), value, lambda crop=picture: _png(crop))  # type: ignore[misc]
    crops.close()
    return crops.wrote


def _pictures(folder: Path, plan: Plan, on_progress: OnProgress) -> Iterator[tuple[tuple[int, int], Floats]]:
    """Yield shard, row and probabilities (n,) of each picture with a result."""
    shards = [shard for shard in plan.shards() if not shard.video]
    for done, shard in enumerate(shards, 1):
        table: Any = import_parquet().read_table(shard_file(folder, shard.number), columns=["probabilities", "error"])
        fields = table["probabilities"].combine_chunks().flatten()
        values = np.stack([field.to_numpy(zero_copy_only=False) for field in fields], axis=1)
        fine = table["error"].is_null().to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(fine).tolist():
            yield (shard.number, row), values[row]
        on_progress(done, len(shards))


def _png(crop: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
