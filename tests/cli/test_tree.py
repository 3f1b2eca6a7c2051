"""What all commands have in common: help, version, names, completion."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from cli.run import run

from seqpar_deploy import __version__
from seqpar_deploy.cli import main
from seqpar_deploy.cli.tree import Command


def walk(app: typer.Typer, *names: str) -> Iterator[tuple[tuple[str, ...], Command | typer.Typer]]:
    for name, entry in app.info.cls.entries.items():  # type: ignore[union-attr]
        yield (*names, name), entry
        if isinstance(entry, typer.Typer):
            yield from walk(entry, *names, name)


TREE = dict(walk(main.app))
PROGRAMS = [("seqpar",), ("seqpar-export",), ("seqpar-bench",), *(("seqpar", *names) for names in TREE)]


@pytest.mark.parametrize("words", PROGRAMS, ids=" ".join)
def test_every_command_answers_help_and_version(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    printed = run(*words, "--help").stdout
    lines = printed.splitlines()
    assert lines[0].startswith(f"Usage: {' '.join(words)} ")
    assert "..." not in printed.split("Commands:")[-1].split("Examples:")[-1] or "Commands:" not in printed
    start = lines.index("  Examples:")
    examples = lines[start + 1 : lines.index("", start)]
    assert examples
    assert all(example.startswith("    seqpar") and len(example) <= 80 for example in examples)
    for option in ("--verbose", "--quiet", "--log-json", "--version", "--help"):
        assert option in printed
    assert run(*words, "--version").stdout == f"seqpar-deploy {__version__}\n"


@pytest.mark.parametrize("names", [names for names, entry in TREE.items() if isinstance(entry, Command)], ids=" ".join)
def test_the_summary_is_the_docstrings_first_line(names: tuple[str, ...]) -> None:
    entry = TREE[names]
    assert isinstance(entry, Command)
    module, _, function = entry.place.partition(":")
    command = getattr(importlib.import_module(f"seqpar_deploy.cli.{module}"), function)
    assert entry.summary == (inspect.getdoc(command) or "").partition("\n")[0]
    assert len(entry.summary) <= 68  # beside the longest name, in 80 columns


@pytest.mark.parametrize("before", [(), ("--runs", 1), ("-q",), ("-q", "--runs", 1)], ids=str)
def test_seqpar_bench_takes_a_bundle(before: tuple[object, ...]) -> None:
    short = run("seqpar-bench", *before, "no-bundle", code=2)
    assert "no-bundle does not exist" in short.error
    assert short.error == run("seqpar", "bench", "run", "no-bundle", *before, code=2).error


def test_a_mistyped_command_is_corrected() -> None:
    assert "'predict'" in run("seqpar", "predcit", code=2).stderr
    assert "--batch-size" in run("seqpar", "predict", "x.png", "-b", "x", "--batchsize", "1", code=2).stderr


def test_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SEQPAR_COMPLETE", "source_bash")
    assert "complete -o default -F _seqpar_completion seqpar" in run("seqpar").stdout
    monkeypatch.setenv("_SEQPAR_COMPLETE", "complete_bash")
    for words, wanted in [("seqpar p", {"predict", "parity"}), ("seqpar bench ", {"run", "compare"})]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        assert set(run("seqpar").stdout.split()) == wanted


def test_help_imports_no_command() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['--help']\n"
        "try: runpy.run_module('seqpar_deploy', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "loaded = {name for name in sys.modules if name.startswith('seqpar_deploy.')}\n"
        "assert not {n for n in loaded if n.split('.')[1] in ('video', 'bench', 'evaluation', 'training')}, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "predict" in done.stdout
