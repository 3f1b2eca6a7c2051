"""`seqpar archive` on a stand-in for Ray, with a tiny bundle: planning, resuming, refusing, adding, and the state."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.run import Done, run
from fakes.archive_job import bytes_of, rows_of
from fakes.archives import picture
from fakes.calibrations import calibrated_on
from fakes.ray_calls import FakeRay

from seqpar_deploy import Bundle, Recognizer, read_image
from seqpar_deploy.calibration.sidecar import save_calibration
from seqpar_deploy.serving.archive import cluster
from seqpar_deploy.serving.archive import driver as driving
from seqpar_deploy.serving.archive import run as running
from seqpar_deploy.serving.archive.job import locked


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> list[FakeRay]:
    """The stand-ins to use, one per start of Ray. The last one is used again."""
    given = [FakeRay()]

    @contextlib.contextmanager
    def local_ray(cpus: int) -> Iterator[FakeRay]:
        assert cpus >= 1
        yield given[0] if len(given) == 1 else given.pop(0)

    monkeypatch.setattr(running, "local_ray", local_ray)
    monkeypatch.setattr(driving, "_LOOK_EVERY", 0.0)
    monkeypatch.setattr(driving, "_NODES_EVERY", 0.0)
    return given


@pytest.fixture
def archive(bundle_dir: Path, tmp_path: Path, rays: list[FakeRay]) -> Callable[..., Done]:
    """`archive(*words)`: run the command into `tmp_path / "job"`, with shards of three."""

    def call(*words: object, code: int = 0, bundle: Path = bundle_dir) -> Done:
        common = ["--bundle", bundle, "--out", tmp_path / "job", "--shard-size", 3, "--workers", 2]
        return run("seqpar", "archive", *words, *common, code=code)

    return call


def state(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("seqpar", "archive", "status", job, "--json").stdout)
    return found


def test_an_archive_is_recognised_in_shards(
    archive: Callable[..., Done], pictures: Path, tmp_path: Path, bundle_dir: Path
) -> None:
    (pictures / "b" / "text.png").write_text("no picture")
    done = archive(pictures, "--camera", r"/(a|b)/")
    assert "1 with an error" in done.stderr
    assert done.stdout == ""
    rows = rows_of(tmp_path / "job")
    with Recognizer.from_bundle(bundle_dir, threads=1) as recognizer:
        expected = recognizer.predict([read_image(path) for path in sorted(pictures.rglob("[0-9].png"))])
    assert [tuple(row["tokens"]) for row in rows if not row["error"]] == [one.tokens for one in expected]
    assert [row["camera"] for row in rows] == ["a"] * 4 + ["b"] * 4
    assert sorted(bytes_of(tmp_path / "job")) == ["000000.parquet", "000001.parquet", "000002.parquet"]
    found = state(tmp_path / "job")
    assert (found["finished"], found["entries"], found["rows"], found["errors"]) == (True, 8, 8, 1)
    assert not found["running"]


def test_a_finished_job_starts_no_worker(archive: Callable[..., Done], pictures: Path, rays: list[FakeRay]) -> None:
    archive(pictures)
    used = len(rays[0].actors)
    archive(pictures)
    archive()
    assert len(rays[0].actors) == used


def test_missing_shards_are_made_again_with_the_same_bytes(
    archive: Callable[..., Done], pictures: Path, tmp_path: Path
) -> None:
    archive(pictures)
    before = bytes_of(tmp_path / "job")
    (tmp_path / "job" / "shards" / "000001.parquet").unlink()
    (tmp_path / "job" / "shards" / ".000001.parquet.abc").write_bytes(b"half")
    assert not state(tmp_path / "job")["finished"]
    archive()
    assert bytes_of(tmp_path / "job") == before


def test_inputs_are_added_and_listed_again_on_request(
    archive: Callable[..., Done], pictures: Path, tmp_path: Path
) -> None:
    archive(pictures)
    before = bytes_of(tmp_path / "job")
    picture(pictures / "a" / "new.png", 9)
    archive(pictures)
    assert state(tmp_path / "job")["entries"] == 7
    archive(pictures, "--list-again")
    picture(tmp_path / "more" / "1.png", 8)
    archive(tmp_path / "more")
    assert state(tmp_path / "job")["entries"] == 9
    after = bytes_of(tmp_path / "job")
    assert {name: after[name] for name in before} == before
    assert len({row["id"] for row in rows_of(tmp_path / "job")}) == 9


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--camera", "gate-3"], "camera"),
        (["--time-zone", "Europe/Berlin"], "time_zone"),
        (["--backend", "onnxruntime"], "backend"),
        (["--shard-size", "4"], "shard_size"),
        (["--without", "female"], "attributes"),
    ],
)
def test_other_options_in_the_same_folder_are_refused(
    archive: Callable[..., Done], pictures: Path, words: list[str], fact: str, bundle_dir: Path, tmp_path: Path
) -> None:
    archive(pictures)
    done = run("seqpar", "archive", pictures, "--bundle", bundle_dir, "--out", tmp_path / "job", *words, code=2)
    assert fact in done.error


def test_another_bundle_or_calibration_is_refused(
    archive: Callable[..., Done], pictures: Path, bundle_dir: Path, tmp_path: Path
) -> None:
    archive(pictures)
    other = tmp_path / "other"
    shutil.copytree(bundle_dir, other)
    bundle = Bundle.open(other)
    save_calibration(bundle, calibrated_on(np.full((50, len(bundle.label_set)), 0.3), bundle.label_set))
    assert "calibration" in archive(pictures, bundle=other, code=2).error
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"note": "another"}))
    assert "bundle" in archive(pictures, bundle=other, code=2).error


def test_a_second_run_of_one_job_is_refused(archive: Callable[..., Done], pictures: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "job"):
        assert "twice" in archive(pictures, code=2).error


@pytest.mark.parametrize("package", ["ray", "pyarrow.parquet"])
def test_a_missing_package_names_the_extra(
    archive: Callable[..., Done], pictures: Path, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert "seqpar-deploy[archive]" in archive(pictures, code=2).error
    assert not (tmp_path / "job" / "plan.json").exists()


@pytest.mark.parametrize(
    ("words", "fact"), [([], "inputs"), (["nothing-here"], "nothing-here"), (["--uncertain-crops", "x"], "--keep")]
)
def test_wrong_arguments_are_one_line(archive: Callable[..., Done], words: list[str], fact: str) -> None:
    assert fact in archive(*words, code=2).error


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head"])
def test_an_address_of_another_kind_is_refused(archive: Callable[..., Done], pictures: Path, address: str) -> None:
    assert "HOST:PORT" in archive(pictures, "--address", address, code=2).error


def test_folders_of_killed_rays_are_removed_and_those_of_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cluster, "_LONGEST", 1000)
    (tmp_path / "seqpar-ray-killed" / "session").mkdir(parents=True)
    with cluster._temporary_folder() as one:
        assert not (tmp_path / "seqpar-ray-killed").exists()
        with cluster._temporary_folder() as other:
            assert one.is_dir()
            assert other.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_ray_that_is_lost_is_started_again(
    archive: Callable[..., Done], pictures: Path, rays: list[FakeRay], tmp_path: Path
) -> None:
    def fate(method: str, arguments: tuple[Any, ...]) -> str:
        if method == "recognize" and Path(arguments[0][0].source).name == "3.png":
            rays_used[0].alive = False
            return "dies"
        return "runs"

    rays_used = [FakeRay(fate)]
    rays.insert(0, rays_used[0])
    done = archive(pictures)
    assert "started again" in done.stderr
    assert len({row["id"] for row in rows_of(tmp_path / "job")}) == 7


def test_a_ray_that_never_lives_fails_the_job(
    archive: Callable[..., Done], pictures: Path, rays: list[FakeRay]
) -> None:
    rays[0].alive = False
    assert "Ray" in archive(pictures, code=2).error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_the_run_and_the_next_run_resumes_it(
    archive: Callable[..., Done], pictures: Path, rays: list[FakeRay], tmp_path: Path, number: signal.Signals
) -> None:
    def fate(method: str, arguments: tuple[Any, ...]) -> str:
        if method == "recognize" and Path(arguments[0][0].source).name == "3.png":
            os.kill(os.getpid(), number)
        return "runs"

    rays.insert(0, FakeRay(fate))
    done = archive(pictures, code=130)
    assert "resume" in done.stderr
    assert 1 <= state(tmp_path / "job")["finished_shards"] < 3
    archive()
    assert state(tmp_path / "job")["finished"]


def test_attributes_that_are_kept_out_are_in_no_file(
    archive: Callable[..., Done], pictures: Path, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own"
    shutil.copytree(bundle_dir, own)
    bundle = Bundle.open(own)
    save_calibration(bundle, calibrated_on(np.full((100, len(bundle.label_set)), 0.001), bundle.label_set))
    for place in range(5):
        picture(pictures / "b" / f"x{place}.png", place)
    words = ("--without", "FEMALE,age*", "--monitor", "--keep-uncertain", 3)
    done = archive(pictures, *words, bundle=own)
    assert "12 pictures" in done.stderr
    rows = rows_of(tmp_path / "job")
    left = {one.name for one in bundle.label_set.attributes if one.name != "Female" and not one.name.startswith("Age")}
    assert all(set(row["states"]) == left for row in rows)
    header = (tmp_path / "uncertain-crops" / "people.csv").read_text().splitlines()[0]
    assert set(header.split(",")) == {"image", "group", *left}
    for file in (tmp_path / "job").rglob("*"):
        assert file.is_dir() or b"Female" not in file.read_bytes(), file
    assert "Female" not in done.stderr
    assert "'nobody'" in archive(pictures, "--without", "nobody", bundle=own, code=2).error


def test_monitor_and_uncertain_pictures(
    archive: Callable[..., Done], pictures: Path, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--monitor" in archive(pictures, "--monitor", code=2).error
    own = tmp_path / "own"
    shutil.copytree(bundle_dir, own)
    bundle = Bundle.open(own)
    save_calibration(bundle, calibrated_on(np.full((100, len(bundle.label_set)), 0.001), bundle.label_set))
    for place in range(5):
        picture(pictures / "b" / f"x{place}.png", place)
    done = archive(pictures, "--monitor", "--keep-uncertain", 3, bundle=own)
    assert "12 pictures" in done.stderr
    assert len((tmp_path / "uncertain-crops" / "people.csv").read_text().splitlines()) == 4
    assert "uncertain-crops" in archive("--keep-uncertain", 3, bundle=own, code=2).error
