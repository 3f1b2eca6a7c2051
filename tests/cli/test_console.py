"""Progress, and outputs that are checked before any work."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.run import run, unchanged_process

from seqpar_deploy.cli import console, logs
from seqpar_deploy.cli.console import stage
from seqpar_deploy.cli.layout import printable
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import check_writable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(console, "_REDRAW_EVERY", -1)
    with unchanged_process():
        logs.configure()
        with stage("counting [it]") as update:
            update(3, 7)
    assert "counting [it] ..." in terminal.getvalue()
    assert "3/7" in terminal.getvalue()
    assert "counting [it] ... done in " in terminal.getvalue().splitlines()[-1]


def test_progress_is_records_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_RECORD_EVERY", 0)
    with unchanged_process():
        logs.configure()
        with stage("counting") as update:
            update(3, 7)
        with pytest.raises(KeyError), stage("failing"):
            raise KeyError
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ... ")[2][:7] for line in lines] == ["", "3/7, 0 ", "done in", "", "stopped"]


def test_what_can_be_written(tmp_path: Path) -> None:
    check_writable(None, tmp_path / "a.json", tmp_path / "new" / "folders" / "a.json")
    check_writable(tmp_path, tmp_path / "new" / "folder", folder=True)
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, folder in [(tmp_path, False), (file / "a.json", False), (file, True), (Path("/proc/a.json"), False)]:
        with pytest.raises(SeqparError, match=str(path)):
            check_writable(path, folder=folder)


@pytest.mark.parametrize(
    "words",
    [
        *(["predict", "x.png", "-b", "x", "--annotate"], ["train", "--data", "x", "--label-set", "peta", "--out"]),
        *(["eval", "x", "-d", "x", option] for option in ("--output", "--picture", "--predictions")),
        *(["parity", "x", option] for option in ("--output", "--html")),
        *(["bench", "run", "x", option] for option in ("--output", "--html")),
        *(["bench", "compare", "x", "y", "--output"], ["tune", "x", "--output"], ["synth", "--sheet"], ["synth"]),
        ["export", "checkpoint", "x.pth", "--out"],
    ],
    ids=lambda words: " ".join((*words[:2], words[-1])),
)
def test_an_output_that_cannot_be_written_ends_it_before_any_work(words: list[str], tmp_path: Path) -> None:
    """Nothing that the words name exists, and the error is of the output all the same."""
    (tmp_path / "file").write_text("")
    bad = tmp_path / "file" / "out"
    done = run("seqpar", *words, bad, code=2)
    assert f"{tmp_path / 'file'}" in done.error
    assert "cannot be written" in done.error
    assert done.stdout == ""


def test_tuning_that_cannot_be_kept_is_not_measured(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqpar_deploy.cli import tune

    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no fallback for a bundle that cannot be written
    monkeypatch.setattr(tune, "TUNED", str(Path("manifest.json", "tuned.json")))
    monkeypatch.setattr(tune, "tune_bundle", None)
    assert "tuned.json" in run("seqpar", "tune", bundle_dir, code=2).error


def seqpar(*words: object, stdout: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seqpar_deploy", *map(str, words)]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)


def test_a_reader_that_is_gone_costs_no_result(bundle_dir: Path, tmp_path: Path) -> None:
    for words in (("info", bundle_dir, "--output", tmp_path / "info.json"), ("--help",)):
        read, write = os.pipe()
        os.close(read)
        done = seqpar(*words, stdout=write)
        os.close(write)
        assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "info.json").read_text())["format"] == 2


def test_a_full_standard_output_is_one_line(bundle_dir: Path) -> None:
    with open("/dev/full", "w") as full:
        done = seqpar("info", bundle_dir, stdout=full.fileno())
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("--help",), ("predict", "--help"), ("--version",)], ids=" ".join)
def test_help_and_version_on_a_full_standard_output_are_one_line(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = seqpar(*words, stdout=full.fileno())
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("--help",), ("--version",), ("info", "BUNDLE"), ("info", "BUNDLE", "--json")], ids=" ".join
)
def test_a_closed_standard_output_is_one_line(words: tuple[str, ...], bundle_dir: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "seqpar_deploy",
        *(str(bundle_dir) if word == "BUNDLE" else word for word in words),
    ]
    closing = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(closing, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("target", ["2>&-", "2>/dev/full"])
def test_errors_never_go_to_standard_output(target: str, tmp_path: Path) -> None:
    for words in (["info", str(tmp_path)], ["info", "--no-such-option"]):
        closing = ["sh", "-c", f'exec "$@" {target}', "sh", sys.executable, "-m", "seqpar_deploy", *words]
        done = subprocess.run(closing, stdout=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")


def test_text_is_escaped_only_where_it_would_drive_the_terminal() -> None:
    assert printable("写真　1, naïve, \U0001f600, a\u200db") == "写真　1, naïve, \U0001f600, a\u200db"
    assert printable("a\nb\tc\x1b[31m\x7f") == r"a\nb\tc\u001b[31m\u007f"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\u001b"
    assert printable("\u202egnp\udce9\U000e0001\u2028") == r"\u202egnp\udce9\udb40\udc01\u2028"


def test_an_error_with_a_strange_name_is_one_line() -> None:
    done = run("seqpar", "info", "no\nsuch\x1b[31m[red]bundle[/red]", code=2)
    assert r"no\nsuch\u001b[31m[red]bundle[/red]" in done.error
    assert len(done.stderr.splitlines()) == 1


def test_an_interruption_that_native_code_swallowed_still_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached: list[str] = []

    def app(**_options: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):  # as an import in C turns it into an ImportError, or drops it
            signal.raise_signal(signal.SIGINT)
        with stage("working"):
            reached.append("work")

    with unchanged_process(), pytest.raises(SystemExit) as ended:
        console.run_app(app)  # type: ignore[arg-type]
    console._interruptions.clear()
    assert (ended.value.code, reached) == (130, [])
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_swallowed_at_the_end_is_still_one(number: signal.Signals) -> None:
    def app(**_options: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)

    with unchanged_process():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also if the tests run under nohup
        with pytest.raises(SystemExit) as ended:
            console.run_app(app)  # type: ignore[arg-type]
    console._interruptions.clear()
    assert ended.value.code == 130
