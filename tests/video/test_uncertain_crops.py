"""The most uncertain crops of a run: which are kept, and that the table is one of our own data format."""

from __future__ import annotations

import datetime
import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fakes.predictions import predicted

from seqpar_deploy.calibration.thresholds import Limits, Thresholds
from seqpar_deploy.datasets.table import load_table
from seqpar_deploy.errors import SeqparError, SinkError
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.types import Box, Sighting
from seqpar_deploy.video.uncertain_crops import UncertainCrops, uncertainty

LABELS = load_label_set("pa100k")
N = len(LABELS)


def crop_of(track_id: int) -> npt.NDArray[np.uint8]:
    return np.full((40, 20, 3), track_id % 256, np.uint8)


def add(sink: UncertainCrops, track_id: int, probability: float, stream: str = "street") -> None:
    sighting = Sighting(frame=0, timestamp=0.0, box=Box(left=0, top=0, right=9, bottom=20))
    candidate = Candidate(stream=stream, track_id=track_id, sighting=sighting, crop=crop_of(track_id), quality=1.0)
    sink(candidate, predicted({}, LABELS, {attribute.name: probability for attribute in LABELS.attributes}), False)


def test_it_is_the_share_of_attributes_that_are_expected_to_be_wrong() -> None:
    probabilities = np.random.default_rng(0).uniform(0.01, 0.99, N)
    expected = np.minimum(probabilities, 1 - probabilities).mean()
    assert uncertainty(probabilities, None) == pytest.approx(expected)


def test_the_distance_is_that_to_the_threshold_and_unknown_is_most_uncertain() -> None:
    wide = Thresholds.from_limits(LABELS, {}, Limits(no=0.1, yes=0.9))
    assert uncertainty(np.full(N, 0.11), wide) == 0.5
    assert uncertainty(np.full(N, 0.85), wide) == 0.5
    assert 0.5 > uncertainty(np.full(N, 0.92), wide) > uncertainty(np.full(N, 0.98), wide)
    assert uncertainty(np.full(N, 0.98), wide) == pytest.approx(uncertainty(np.full(N, 0.02), wide))
    never = Thresholds.from_limits(LABELS, {}, Limits(no=0.1))
    assert uncertainty(np.full(N, 0.999), never) == 0.5
    assert uncertainty(np.full(N, 0.05), never) < 0.5


def test_the_most_uncertain_are_kept_one_per_track(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sink = UncertainCrops(tmp_path / "out", 5, LABELS)
    best: dict[int, float] = {}
    for _ in range(500):
        track_id, probability = int(random.integers(1, 40)), float(random.uniform(0, 0.5))
        best[track_id] = max(best.get(track_id, 0.0), probability)
        add(sink, track_id, probability)
    sink.close()
    sink.close()
    people = load_table(tmp_path / "out" / "people.csv", LABELS)
    expected = sorted(best, key=lambda track_id: -best[track_id])[:5]
    assert people.groups == tuple(f"street #{track_id}" for track_id in expected)
    for index, track_id in enumerate(expected):
        np.testing.assert_array_equal(people.crop(index), crop_of(track_id))
    assert (people.labels == -1).all()  # unknown, until they are labelled
    assert people.labels.shape == (5, N)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_it_holds_no_more_than_it_writes(tmp_path: Path) -> None:
    sink = UncertainCrops(tmp_path / "out", 3, LABELS)
    for number in range(1, 400):
        add(sink, number, number / 1000)
        add(sink, 1, number / 1000)
    assert len(sink._kept) == 3
    assert len(sink._least) <= 7


def test_a_labelled_table_is_read(tmp_path: Path) -> None:
    sink = UncertainCrops(tmp_path / "out", 3, LABELS)
    for track_id, stream in ((1, "caf\udce9, 2"), (2, 'a "yard"')):
        add(sink, track_id, 0.5 - track_id / 10, stream)
    sink.close()
    table = tmp_path / "out" / "people.csv"
    table.write_bytes(table.read_bytes().replace(b",,", b",1,", 1))
    people = load_table(table, LABELS)
    assert people.labels[0].tolist() == [1, *[-1] * (N - 1)]
    assert len(set(people.groups or ())) == 2


def test_nothing_is_written_for_nobody_nor_for_nan(tmp_path: Path) -> None:
    sink = UncertainCrops(tmp_path / "out", 3, LABELS)
    add(sink, 1, float("nan"))
    sink.close()
    assert not sink.wrote
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="exists"):
        UncertainCrops(tmp_path, 3, LABELS)
    sink = UncertainCrops(tmp_path / "out", 3, LABELS)
    add(sink, 1, 0.4)
    (tmp_path / "out").mkdir()  # meanwhile
    with pytest.raises(SinkError, match="out"):
        sink.close()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SeqparError, match="out"):
        UncertainCrops(tmp_path / "out", 3, LABELS)


def test_threads_may_share_it(tmp_path: Path) -> None:
    sink = UncertainCrops(tmp_path / "out", 4, LABELS)

    def work(offset: int) -> None:
        for number in range(100):
            add(sink, 1 + offset + 4 * number % 200, number / 250)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    assert len(load_table(tmp_path / "out" / "people.csv", LABELS).images) == 4


def test_crops_that_are_too_old_are_dropped(tmp_path: Path) -> None:
    sink = UncertainCrops(tmp_path / "out", 3, LABELS)
    for track_id in range(1, 6):
        add(sink, track_id, 0.1 * track_id)
    now = datetime.datetime.now(datetime.timezone.utc)
    assert sink.delete_before(now - datetime.timedelta(hours=1)) == 0
    assert sink.delete_before(now + datetime.timedelta(hours=1)) == 3
    for track_id in range(6, 20):
        add(sink, track_id, 0.01 * track_id)
    sink.close()
    assert sorted(row.split(",")[1] for row in (tmp_path / "out/people.csv").read_text().splitlines()[1:]) == [
        "street #17",
        "street #18",
        "street #19",
    ]
