"""--quiet, --verbose and --log-json, before and after a command's name."""

from __future__ import annotations

import datetime
import json
import logging
import warnings
from pathlib import Path

import pytest
from cli.run import run, unchanged_process

from seqpar_deploy.cli import logs
from seqpar_deploy.resources import sample_crops

CROP = sample_crops()[0]


def test_quiet_leaves_warnings_and_errors(bundle_dir: Path) -> None:
    words = ("predict", CROP, "-b", bundle_dir)
    assert run("seqpar", *words).stderr.startswith("1 image on ")
    assert run("seqpar", "-q", *words).stderr == run("seqpar", *words, "--quiet").stderr == ""
    assert "nowhere" in run("seqpar", "-q", "predict", CROP, "-b", "nowhere", code=2).error


def test_quiet_shows_no_progress(tmp_path: Path) -> None:
    words = ("synth", tmp_path / "s", "--train", 1, "--val", 0, "--test", 0, "--workers", 1)
    assert run("seqpar", *words, "-q").stderr == ""
    assert "1 synthetic people ... done in" in run("seqpar", *words).stderr


@pytest.mark.parametrize("place", [0, 3])
def test_log_json_is_one_object_per_line(bundle_dir: Path, tmp_path: Path, place: int) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(CROP.read_bytes()[:500])
    words = ["predict", "-b", bundle_dir, CROP, bad]
    words.insert(place, "--log-json")
    done = run("seqpar", *words, code=2)
    error, info = (json.loads(line) for line in done.stderr.splitlines())
    assert (error["level"], info["level"]) == ("error", "info")
    assert "bad.png" in error["message"]
    assert info["message"].startswith("1 image on ")
    assert info["logger"] == "seqpar_deploy.cli.predict"
    time = datetime.datetime.fromisoformat(info["time"])
    assert time.utcoffset() == datetime.timedelta(0)
    assert abs(datetime.datetime.now(datetime.timezone.utc) - time) < datetime.timedelta(minutes=1)


@pytest.mark.parametrize("words", [("predict", "--beam", "x"), ("predcit",), ("predict", CROP, "-b", "nowhere")])
def test_a_final_error_is_json_too(words: tuple[object, ...]) -> None:
    (line,) = run("seqpar", "--log-json", *words, code=2).stderr.splitlines()
    assert json.loads(line)["level"] == "error"


def test_verbose_and_quiet_exclude_each_other(bundle_dir: Path) -> None:
    assert "--quiet" in run("seqpar", "-v", "predict", CROP, "-b", bundle_dir, "-q", code=2).stderr


def test_verbose_shows_debug_messages_tracebacks_and_other_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    ours, other = logging.getLogger("seqpar_deploy.x"), logging.getLogger("library")
    with unchanged_process():
        for verbose in (False, True):
            logs.configure(verbose=verbose)
            ours.debug("detail")
            other.info("word")
            other.warning("two\nlines")
            ours.error("fault", exc_info=ValueError("cause"))
            printed = capsys.readouterr().err
            assert ("detail" in printed) == ("library: word" in printed) == ("ValueError: cause" in printed) == verbose
            assert "two lines\n" in printed
            assert "error: fault\n" in printed


def test_python_warnings_are_logged(capsys: pytest.CaptureFixture[str]) -> None:
    with unchanged_process(), warnings.catch_warnings():
        logs.configure()
        warnings.simplefilter("always")
        warnings.warn("old\nthing", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: old thing\n"
