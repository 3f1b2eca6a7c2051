"""`seqpar video` with --thresholds, --monitor and --keep-uncertain."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
from cli.run import run
from fakes.calibrations import calibrated_on
from video.clips import make_clip

from seqpar_deploy import Bundle
from seqpar_deploy.calibration.drift import FIRST_LOOK
from seqpar_deploy.calibration.sidecar import save_calibration
from seqpar_deploy.datasets.table import load_table
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.uncertain_crops import UncertainCrops

pytestmark = pytest.mark.slow
CROWD = FIRST_LOOK + 1


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a clip, and beside it boxes of a crowd that stands still."""
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "walk.mp4", frames=20)
    boxes = [[7 * place, 10, 7 * place + 6, 90] for place in range(CROWD)]
    lines = (json.dumps({"frame": at, "boxes": boxes}) + "\n" for at in range(20))
    (tmp_path / "crowd.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def calibrated(bundle_dir: Path, place: Path) -> Path:
    """A bundle whose calibration set had probabilities that nobody in the clip has."""
    bundle = Bundle.open(shutil.copytree(bundle_dir, place / "bundle"))
    save_calibration(bundle, calibrated_on(np.full((200, len(bundle.label_set)), 0.999), bundle.label_set))
    return bundle.path


def words(bundle: Path) -> list[object]:
    return ["seqpar", "video", "walk.mp4", "-b", bundle, "--detector", "crowd.jsonl", "--events", "events.jsonl"]


def test_drift_is_in_the_log_and_in_the_report(place: Path, calibrated: Path) -> None:
    done = run(*words(calibrated), "--monitor", "--report", "people.html")
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings
    assert len(set(warnings)) == len(warnings)
    assert all("100 %" in line for line in warnings)  # of the calibration set, above what people have here
    (end,) = (line for line in done.stderr.splitlines() if line.startswith("monitor: "))
    assert f"{CROWD} people" in end
    page = (place / "people.html").read_text()
    assert 'id="drift"' in page
    assert warnings[0].split()[1] in end


def test_the_monitor_needs_a_calibration_before_any_work(place: Path, bundle_dir: Path) -> None:
    before = sorted(place.iterdir())
    for more, code in ((["--report", "people.html"], 2), (["--dry-run"], 2)):
        done = run(*words(bundle_dir), "--monitor", *more, code=code)
        assert "--monitor" in done.error
        assert "seqpar calibrate" in done.error
    assert sorted(place.iterdir()) == before


def test_uncertain_crops_are_written_and_never_over_a_folder(place: Path, bundle_dir: Path) -> None:
    done = run(*words(bundle_dir), "--keep-uncertain", 5)
    assert "wrote uncertain-crops" in done.stderr
    label_set = Bundle.open(bundle_dir).label_set
    people = load_table(place / "uncertain-crops" / "people.csv", label_set)
    assert len(people.images) == len(set(people.groups or ())) == 5
    assert all(path.is_file() for path in people.images)
    for more in ([], ["--dry-run"]):
        assert "uncertain-crops" in run(*words(bundle_dir), "--keep-uncertain", 5, *more, code=2).error
    run(*words(bundle_dir), "--keep-uncertain", 50, "--uncertain-crops", "more/crops")
    assert len(load_table(place / "more" / "crops" / "people.csv", label_set).images) == CROWD


def test_ctrl_c_writes_them_too(place: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = UncertainCrops.__call__
    sent: list[None] = []

    def keep_and_interrupt(self: UncertainCrops, *answer: object) -> None:
        keep(self, *answer)  # type: ignore[arg-type]
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(UncertainCrops, "__call__", keep_and_interrupt)
    run(*words(bundle_dir), "--keep-uncertain", 5, code=130)
    assert load_table(place / "uncertain-crops" / "people.csv", Bundle.open(bundle_dir).label_set).images


def test_thresholds_reach_the_recogniser(place: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "thresholds.toml").write_text("format = 1\ndefault = 0.83\n")
    opened: list[Recognizer] = []
    close = Recognizer.close
    monkeypatch.setattr(Recognizer, "close", lambda self: (opened.append(self), close(self))[1])
    for more in ([], ["--dry-run"]):
        opened.clear()
        run(*words(bundle_dir), "--thresholds", "thresholds.toml", *more)
        thresholds = opened[0].thresholds
        assert thresholds is not None
        assert (thresholds.yes == 0.83).all()


@pytest.mark.parametrize(("text", "named"), [("[attributes]\nWings = 0.5\n", "Wings"), ("default = 1.5\n", "1.5")])
def test_wrong_thresholds_are_one_line_before_any_work(place: Path, bundle_dir: Path, text: str, named: str) -> None:
    (place / "thresholds.toml").write_text("format = 1\n" + text)
    for more in ([], ["--dry-run"]):
        error = run(*words(bundle_dir), "--thresholds", "thresholds.toml", *more, code=2).error
        assert "thresholds.toml" in error
        assert named in error
    assert not (place / "events.jsonl").exists()
