"""After the last shard: drift and uncertain pictures, from the files of results."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fakes.archives import picture
from fakes.calibrations import calibrated_on
from fakes.predictions import predicted
from PIL import Image

from seqpar_deploy.errors import SinkError
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.finish import drift_of, write_uncertain
from seqpar_deploy.serving.archive.job import write_shard
from seqpar_deploy.serving.archive.plan import EntryReader, Plan, Settings
from seqpar_deploy.serving.archive.rows import Rows
from seqpar_deploy.serving.archive.schema import ResultMetadata

HATS = {3: 0.5, 7: 0.45, 11: 0.6}  # by number of the picture: uncertain, the first the most


def finished(tmp_path: Path, metadata: ResultMetadata, *, hats: bool = False) -> Plan:
    """A finished job of twelve pictures in shards of five. Picture 4 is broken. The last shard is a video."""
    entries = [
        Entry(kind="picture", source=str(picture(tmp_path / "crops" / f"{number:02d}.png", number)))
        for number in range(12)
    ]
    entries.append(Entry(kind="video", source="/street.mp4"))
    settings = Settings(bundle="b" * 64, calibration="c" * 64, shard_size=5)
    plan = Plan(settings=settings).extended(tmp_path / "job", ["/"], entries, lambda _count: None)
    reader, label_set = EntryReader(tmp_path / "job"), metadata.label_set
    for shard in plan.shards():
        rows = Rows(metadata)
        for entry in reader.read(shard):
            number = int(Path(entry.source).stem) if not shard.video else 0
            if number == 4:
                rows.add_error(entry, "it is broken")
            elif shard.video:
                rows.add(entry, predicted({}, label_set, {name.name: 0.5 for name in label_set.attributes}))
            else:
                value = 0.99 if hats else HATS.get(number, 0.05)
                rows.add(entry, predicted({}, label_set, {"Hat": value}))
        write_shard(tmp_path / "job", shard.number, pa.Table.from_batches([rows.to_batch()]))
    return plan


def test_the_most_uncertain_pictures_are_written_in_order(tmp_path: Path, metadata: ResultMetadata) -> None:
    plan = finished(tmp_path, metadata)
    looks: list[tuple[int, int]] = []
    out = tmp_path / "uncertain"
    given = metadata.label_set, None, lambda done, total: looks.append((done, total))
    assert write_uncertain(tmp_path / "job", plan, out, 2, *given)
    rows = list(csv.DictReader((out / "people.csv").read_text().splitlines()))
    assert [Path(row["group"]).name.split(".")[0] for row in rows] == ["03", "07"]
    assert [np.asarray(Image.open(out / row["image"])).mean() for row in rows] == [3, 7]
    assert looks[-1] == (3, 3)
    with pytest.raises(SinkError, match="uncertain"):
        write_uncertain(tmp_path / "job", plan, out, 2, *given)


def test_a_picture_that_is_gone_since_is_left_out(tmp_path: Path, metadata: ResultMetadata) -> None:
    plan = finished(tmp_path, metadata)
    (tmp_path / "crops" / "03.png").unlink()
    write_uncertain(tmp_path / "job", plan, tmp_path / "out", 2, metadata.label_set, None, lambda _done, _total: None)
    rows = list(csv.DictReader((tmp_path / "out" / "people.csv").read_text().splitlines()))
    assert [Path(row["group"]).name.split(".")[0] for row in rows] == ["07"]


@pytest.mark.parametrize("hats", [False, True])
def test_drift_counts_pictures_with_a_result(tmp_path: Path, metadata: ResultMetadata, hats: bool) -> None:
    plan = finished(tmp_path, metadata, hats=hats)
    calibration = calibrated_on(np.full((100, len(metadata.label_set)), 0.05), metadata.label_set)
    report = drift_of(tmp_path / "job", plan, calibration, metadata.label_set, lambda _done, _total: None)
    assert report.people == 11
    assert report.looks >= 1
    assert report.drifted == (("Hat",) if hats else ())
