"""Parts that all commands share: help, version, names, completion."""

from __future__ import annotations

import importlib
import inspect
import re
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
ROOTS = {"seqpar": main.app, "seqpar-export": main.export_app, "seqpar-bench": main.bench_app}
PROGRAMS = [("seqpar",), ("seqpar-export",), ("seqpar-bench",), *(("seqpar", *names) for names in TREE)]


@pytest.mark.parametrize("words", PROGRAMS, ids=" ".join)
def test_every_command_answers_help_and_version(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    printed = run(*words, "--help").stdout
    lines = printed.splitlines()
    assert lines[0].startswith(f"Usage: {' '.join(words)} ")
    assert max(map(len, lines)) <= 80
    examples = lines[lines.index("Examples:") + 1 :]  # the help ends with them
    assert examples
    assert all(example.startswith("  seqpar ") for example in examples)
    for option in ("--verbose", "--quiet", "--log-json", "--version", "--help"):
        assert option in printed
    assert run(*words, "--version").stdout == f"seqpar-deploy {__version__}\n"


@pytest.mark.parametrize("words", PROGRAMS, ids=" ".join)
def test_help_states_defaults_limits_and_required_options(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command, context = typer.main.get_command(ROOTS[words[0]]), None
    for name in words[1:]:
        context = typer.Context(command, parent=context)
        command = command.get_command(context, name)  # type: ignore[attr-defined]
    rows = table_rows(run(*words, "--help").stdout)
    for parameter in command.params:
        name = parameter.metavar if parameter.param_type_name == "argument" else max(parameter.opts, key=len)
        text = rows[str(name)]
        is_off = parameter.default is False and not parameter.secondary_opts
        if parameter.required:
            assert text.endswith("Required."), name
        elif parameter.default is not None and not is_off:
            assert "Default: " in text, name
        if getattr(parameter, "min", None) is not None:
            assert "Minimum: " in text or "Range: " in text, name


def table_rows(printed: str) -> dict[str, str]:
    """The texts of a help page by the name of the argument or the last name of the option."""
    rows: dict[str, str] = {}
    name = ""
    for line in printed.partition("\nExamples:")[0].splitlines():
        if re.match(r"  (-|[A-Z]+ )", line):
            cells = re.split(r"  +", line.strip(), maxsplit=1)
            words = re.findall(r"--[\w-]+|^[A-Z]+", cells[0])
            name = words[0]
            rows[name] = cells[1] if len(cells) > 1 else ""
        elif not line.startswith(" "):
            name = ""
        elif name:
            rows[name] = f"{rows[name]} {line.strip()}".strip()
    return rows


@pytest.mark.parametrize(
    ("words", "option", "expected"),
    [
        (("predict",), "--beam", ("Default: 1.", "Range: 1 to 64.")),
        (("predict",), "--backend", ("openvino", "Default: auto.")),
        (("predict",), "--verify", ("Default: --verify.",)),
        (("train",), "--save-every", ("Default: 300.", "Minimum: 0.")),
        (("train",), "--eos", ("Default: --eos.",)),
        (("parity",), "--crops", ("--checkpoint", "Default: 64.", "Minimum: 1.")),
        (("synth",), "--val", ("Default: 2000.",)),
        (("eval",), "--data", ("Required.",)),
        (("tune",), "PICTURES", ("Default: 20 ",)),
    ],
    ids=str,
)
def test_facts_in_help_stand_in_order(words: tuple[str, ...], option: str, expected: tuple[str, ...]) -> None:
    text = table_rows(run("seqpar", *words, "--help").stdout)[option]
    places = [text.find(fact) for fact in expected]
    assert -1 not in places
    assert places == sorted(places)


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
    assert "no-bundle" in short.error
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
