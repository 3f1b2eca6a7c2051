"""`seqpar demo`: what it writes, which folders it refuses, which bundle it takes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.run import run

from seqpar_deploy import Bundle, resources
from seqpar_deploy.cli import demo as command
from seqpar_deploy.files import sha256_of
from seqpar_deploy.resources import data_dir, sample_crops

OUTPUTS = {"people.html", "people.jsonl", "people.png", "pictures", "street.mp4", "seqpar-demo.json"}


@pytest.fixture
def no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the command looks for built bundles, empty."""

    def place(name: str) -> Path:
        return tmp_path / name if name in ("bundles", "build", "runs") else resources.data_dir(name)

    monkeypatch.setattr(command, "data_dir", place)
    return tmp_path


@pytest.mark.slow
def test_shows_people_and_writes_the_outputs(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second replaces the first
        done = run("seqpar", "demo", "--bundle", bundle_dir)
        assert {path.name for path in (tmp_path / "seqpar-demo").iterdir()} == OUTPUTS
    assert [path.name for path in tmp_path.iterdir()] == ["seqpar-demo"]
    assert all(len(line) <= 80 for line in done.stdout.splitlines() if not line.startswith("Open file:"))
    assert all(f"person-{number:02}" in done.stdout for number in range(1, 21))
    assert done.stdout.splitlines()[-1].endswith("/seqpar-demo/people.html")
    assert len(list((tmp_path / "seqpar-demo" / "pictures").glob("*.png"))) == len(sample_crops())
    assert "partial" not in (tmp_path / "seqpar-demo" / "people.html").read_text()


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing(bundle_dir: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "seqpar_deploy", "demo", "--bundle", bundle_dir, "--out", tmp_path / "out"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("following the people"))
        process.send_signal(signal.SIGINT)
        after = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in after
    assert "Traceback" not in after
    assert list(tmp_path.iterdir()) == []


def test_exports_the_bundle_and_the_samples(bundle_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "playground"
    for _ in range(2):
        run("seqpar", "demo", "--export", folder, "--bundle", bundle_dir)
    assert Bundle.open(folder / "bundle").digest == Bundle.open(bundle_dir).digest
    assert [path.name for path in (folder / "samples" / "crops").iterdir()] != []
    assert (folder / "samples" / "vtest" / "street.mp4").is_file()
    for name in ("samples/crops", "samples/vtest/street.mp4", "bundle"):
        assert name in (folder / "README.md").read_text()


def test_refuses_a_folder_with_other_files(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "playground"
    folder.mkdir()
    run("seqpar", "demo", "--export", folder, "--bundle", bundle_dir)  # an empty folder is fine
    (folder / "samples" / "mine.txt").touch()
    for option in ("--export", "--out"):
        assert "mine.txt" in run("seqpar", "demo", option, folder, "--bundle", bundle_dir, code=2).error
    assert (folder / "samples" / "mine.txt").is_file()
    assert "file" in run("seqpar", "demo", "--out", folder / "README.md", code=2).error
    monkeypatch.chdir(folder)
    for name in (".", tmp_path):
        assert "current" in run("seqpar", "demo", "--out", name, code=2).error


def test_export_and_out_exclude_each_other(tmp_path: Path) -> None:
    done = run("seqpar", "demo", "--export", tmp_path / "a", "--out", tmp_path / "b", code=2)
    assert "--export" in done.stderr
    assert "--out" in done.stderr


def test_without_a_bundle_it_names_the_command_that_builds_one(no_bundle: Path, tmp_path: Path) -> None:
    error = run("seqpar", "demo", "--export", tmp_path / "out", code=2).error
    assert "make wheel" in error
    assert "--bundle" in error
    assert list(tmp_path.iterdir()) == []


def test_takes_a_built_bundle_only_if_its_checkpoint_is_the_one_that_ships(
    no_bundle: Path, bundle_dir: Path, tmp_path: Path
) -> None:
    built = no_bundle / "build" / "demo-bundle"
    shutil.copytree(bundle_dir, built)
    done = run("seqpar", "demo", "--export", tmp_path / "out", code=2)
    assert "ignoring" in done.stderr
    manifest = json.loads((built / "manifest.json").read_text())
    manifest["checkpoint"]["sha256"] = sha256_of(data_dir("models") / "demo" / "demo.safetensors")
    (built / "manifest.json").write_text(json.dumps(manifest))
    run("seqpar", "demo", "--export", tmp_path / "out")
    assert (tmp_path / "out" / "bundle" / "manifest.json").read_bytes() == (built / "manifest.json").read_bytes()
