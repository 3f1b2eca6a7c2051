"""`seqpar archive` as a process, on Ray itself: killed at any moment, with poisoned pictures, and on two nodes."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from fakes.archive_job import ArchiveProcess, Nodes, bytes_of, descendants, is_worker, rows_of, wait_until
from PIL import Image

from seqpar_deploy import read_image
from seqpar_deploy.resources import sample_crops

pytestmark = pytest.mark.heavy

CROPS, SHARD = 500, 64
LIMIT = 300.0  # seconds of one run, on a busy machine
PORT = 6398


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """500 variants of the sample crops."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    samples = [read_image(path) for path in sample_crops()]
    for place in range(CROPS):
        sample = samples[place % len(samples)]
        left, top = rng.integers(0, 8, 2)
        Image.fromarray(sample[top:, left:]).resize((48, 120)).save(folder / f"{place:03d}.jpg")
    return folder


def words(crops: Path, bundle: Path, job: Path) -> list[object]:
    common = ["--bundle", bundle, "--out", job, "--workers", 2, "--threads", 1, "--shard-size", SHARD]
    return [crops, *common]


@pytest.fixture(scope="module")
def undisturbed(crops: Path, bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = ArchiveProcess(*words(crops, bundle_dir, folder / "job"), log=folder / "log")
    code = run.wait(LIMIT)
    text = (folder / "log").read_text()
    assert code == 0, text
    assert "ray" not in text.lower().replace("/ray", "")  # nothing of Ray's own lines
    rows = rows_of(folder / "job")
    assert [row["id"] for row in rows] == [str(path) for path in sorted(crops.iterdir())]
    assert all(row["error"] is None for row in rows)
    return folder / "job"


def test_killed_at_random_moments_it_loses_and_repeats_nothing(
    crops: Path, bundle_dir: Path, undisturbed: Path, tmp_path: Path
) -> None:
    choose = random.Random(0)
    targets = ["worker", "driver", "raylet", "worker", "driver"]
    job, log = tmp_path / "job", tmp_path / "log"
    for _ in range(3 * len(targets)):
        for file in sorted(job.glob("shards/0*.parquet"))[2:]:  # so that there is work to kill in
            file.unlink()
        run = ArchiveProcess(*words(crops, bundle_dir, job), log=log)
        wait_until(lambda: not run.is_running() or any(map(is_worker, descendants(run.process.pid))), LIMIT)  # noqa: B023
        wait_until(lambda: not run.is_running(), choose.uniform(0, 3))  # noqa: B023
        if run.kill(targets[0]):
            targets.pop(0)
        run.wait(LIMIT)
        if not targets:
            break
    assert targets == [], log.read_text()
    assert ArchiveProcess(*words(crops, bundle_dir, job), log=log).wait(LIMIT) == 0
    assert bytes_of(job) == bytes_of(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_everything(
    crops: Path, bundle_dir: Path, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = ArchiveProcess(*words(crops, bundle_dir, tmp_path / "job"), log=tmp_path / "log")
    assert wait_until(lambda: any(map(is_worker, descendants(run.process.pid))), LIMIT)
    below = list(descendants(run.process.pid))
    run.process.send_signal(number)
    assert run.wait(60) == 130
    assert "resume" in (tmp_path / "log").read_text()
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below), 30)
    again = ArchiveProcess(*words(crops, bundle_dir, tmp_path / "job"), log=tmp_path / "log")
    assert again.wait(LIMIT) == 0
    assert bytes_of(tmp_path / "job") == bytes_of(undisturbed)


@pytest.fixture
def poison(tmp_path: Path) -> dict[str, str]:
    """An environment whose Pillow dies of pictures named `kill...`, and hangs at those named `hang...`."""
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os, sys, time
            from PIL import Image
            real = Image.open

            def planted(file, *rest, **named):
                name = os.path.basename(str(file))
                if name.startswith("kill"):
                    os.kill(os.getpid(), 9)
                if name.startswith("hang"):
                    time.sleep(3600)
                return real(file, *rest, **named)

            Image.open = planted
            """
        )
    )
    root = Path(__file__).parents[3]
    return {"PYTHONPATH": f"{tmp_path / 'planted'}{os.pathsep}{root}"}


def test_poisoned_pictures_are_set_aside(crops: Path, bundle_dir: Path, tmp_path: Path, poison: dict[str, str]) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted(crops.iterdir())[:90]:
        (some / path.name).symlink_to(path)
    for name in ("kill.jpg", "hang.jpg"):
        (some / f"{name}").symlink_to(crops / "000.jpg")
    street = Path(__file__).parents[3] / "samples" / "vtest" / "street.mp4"
    given = [street, *words(some, bundle_dir, tmp_path / "job"), "--time-limit", 20]
    run = ArchiveProcess(*given, log=tmp_path / "log", environment=poison)
    assert run.wait(LIMIT) == 0, (tmp_path / "log").read_text()
    rows = rows_of(tmp_path / "job")
    assert sum(row["track_id"] is None for row in rows) == 92
    assert len([row for row in rows if row["source"] == str(street) and row["timestamp"] < row["ended"]]) >= 4
    assert {Path(row["id"]).name for row in rows if row["error"]} == {"kill.jpg", "hang.jpg"}


def test_a_job_survives_the_loss_of_a_node(crops: Path, bundle_dir: Path, undisturbed: Path, tmp_path: Path) -> None:
    job = tmp_path / "job"
    with tempfile.TemporaryDirectory(prefix="nodes-", dir="/tmp") as folder, Nodes(PORT, Path(folder)) as nodes:
        given = [*words(crops, bundle_dir, job), "--address", nodes.address]
        run = ArchiveProcess(*given, log=tmp_path / "log", environment=nodes.environment)
        assert wait_until(lambda: list(job.glob("shards/*.parquet")), LIMIT), (tmp_path / "log").read_text()
        assert nodes.kill_last() >= 1
        assert run.wait(LIMIT) == 0, (tmp_path / "log").read_text()
    assert bytes_of(job) == bytes_of(undisturbed)
