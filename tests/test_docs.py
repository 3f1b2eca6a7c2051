"""Commands, code and lists of the documentation against the code that they describe."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import tomli
from typer.main import get_command

from seqpar_deploy.bundle import Bundle, Dimensions
from seqpar_deploy.cli import console
from seqpar_deploy.cli.main import app
from seqpar_deploy.exporting.recipe import Int8, Recipe
from seqpar_deploy.parity.tolerances import ParityTolerances
from seqpar_deploy.resources import label_set_names, load_label_set, recipe_names, training_recipe_names
from seqpar_deploy.training.recipe import Augmentation, Model, Optimiser, TrainingRecipe
from seqpar_deploy.video.detect.external import ExternalDetections
from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.vocab import LabelSet

ROOT = Path(__file__).parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))}
REFERENCE = ROOT / "docs" / "reference"
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


def blocks(path: Path, *languages: str) -> list[str]:
    return [code for _, language, code in FENCE.findall(path.read_text(encoding="utf-8")) if language in languages]


def commands(path: Path) -> Iterator[list[str]]:
    """The words of each `seqpar` command in a page's blocks of shell commands."""
    for block in blocks(path, "", "console", "bash", "sh", "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"[^|+]*\bseqpar\b", line) and not line.startswith(" |"):
                yield from _programs(line.strip().removeprefix("$ "))


def _programs(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    program: list[str] = []
    try:
        words = list(lexer)
    except ValueError:  # prose, or output
        return
    for word in [*words, "|"]:
        if set(word) <= set("|&;"):
            if program and program[0] in ("seqpar", "seqpar-export", "seqpar-bench"):
                yield program
            program = []
        else:
            program.append(word)


def parse(words: list[str]) -> None:
    """Parse a command as the CLI would, without running it."""
    program, *rest = words
    given = [*program.split("-")[1:], *rest]
    command: Any = get_command(app)
    context: Any = command.make_context("seqpar", given)
    while hasattr(command, "resolve_command"):
        name, command, given = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, given, parent=context)


COMMANDS = sorted({tuple(words) for path in PAGES.values() for words in commands(path)})


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_of_the_docs_parses(words: tuple[str, ...]) -> None:
    shown = [word for word in words if word not in ("...", "2>&1")]
    if "--help" in shown or "--version" in shown or shown == ["seqpar"]:
        return
    if "--install-completion" in shown:
        return
    parse(shown)


def test_commands_are_found_and_wrong_ones_fail() -> None:
    assert len(COMMANDS) >= 10
    with pytest.raises(Exception, match="--no-such"):
        parse(["seqpar", "info", "bundle", "--no-such"])


@pytest.mark.parametrize("name", PAGES)
def test_python_of_a_page_imports_names_that_exist(name: str) -> None:
    for code in blocks(PAGES[name], "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seqpar_deploy"):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("name", PAGES)
def test_data_of_a_page_can_be_read(name: str) -> None:
    for block in blocks(PAGES[name], "toml"):
        tomli.loads(block)
    for block in blocks(PAGES[name], "json"):
        try:
            json.loads(block)
        except ValueError:
            for line in block.splitlines():
                json.loads(line)


def test_no_line_of_markdown_is_over_120_characters() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.split() or list(PAGES)  # an archive of the sources has no git
    files = {name: (ROOT / name).read_text(encoding="utf-8").splitlines() for name in names if (ROOT / name).is_file()}
    assert {name: max(map(len, lines)) for name, lines in files.items() if max(map(len, lines)) > 120} == {}


def test_pages_that_the_code_names_exist() -> None:
    """Errors and help name pages; this package has no page that has moved away."""
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for folder in ("seqpar_deploy", "benchmarks", "examples", "models", "export", "train")
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".toml", ".md")
        for name in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert found
    assert {(path, name) for path, name in found if not (ROOT / name).is_file()} == set()


def test_metrics_are_listed() -> None:
    made = set()
    folders = (ROOT / "seqpar_deploy" / "video", ROOT / "seqpar_deploy" / "serving")
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        made |= set(re.findall(r'\.(counter|gauge|histogram)\(\s*"(seqpar_\w+)"', path.read_text(encoding="utf-8")))
    rows = re.findall(r"^\| `(seqpar_\w+)` \| (\w+) \|", page("metrics"), re.MULTILINE)
    assert len(made) > 10
    assert {(kind, name) for name, kind in rows} == made


def test_label_sets_are_listed() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| (\d+) \| (yes|no) \|", page("label-sets"), re.MULTILINE)
    assert [row[0] for row in rows] == label_set_names()
    for name, title, attributes, sentences in rows:
        made = load_label_set(name)
        assert (made.title, len(made)) == (title, int(attributes))
        assert ("\nsentences" in (ROOT / "models" / f"{name}.toml").read_text(encoding="utf-8")) == (sentences == "yes")


def test_the_label_set_of_the_page_loads(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text(blocks(REFERENCE / "label-sets.md", "toml")[0], encoding="utf-8")
    made = load_label_set(tmp_path / "shop.toml")
    assert made.groups["age"].exclusive
    assert made.groups["view"].momentary


def test_keys_of_label_sets_and_recipes_are_listed() -> None:
    keys = {field.name for field in dataclasses.fields(LabelSet)}
    assert {key for key in keys if f"`{key}" not in page("label-sets")} == set()
    shown = page("recipes")
    nested = {"parity": ParityTolerances, "int8": Int8, "model": Model, "optimiser": Optimiser}
    for prefix, kind in {**nested, "augmentation": Augmentation}.items():
        for field in dataclasses.fields(kind):
            full, short = f"`{prefix}.{field.name}`", f"`.{field.name}`"
            assert full in shown or short in shown, full
    for kind in (Recipe, TrainingRecipe):
        for field in dataclasses.fields(kind):
            assert field.name in shown
    for name in (*recipe_names(), *training_recipe_names()):
        assert f"| `{name}`" in shown


@pytest.mark.parametrize(
    ("prefix", "kind"), [("parity", ParityTolerances), ("optimiser", Optimiser), ("augmentation", Augmentation)]
)
def test_defaults_of_recipes_are_right(prefix: str, kind: Any) -> None:
    for field in dataclasses.fields(kind):
        row = re.search(rf"^\| `{prefix}\.{field.name}` \|.*\| ([^|]+) \|$", page("recipes"), re.MULTILINE)
        if row is None:  # shares a row with others
            continue
        if field.default is dataclasses.MISSING:
            assert row[1] == "required"
        elif isinstance(field.default, bool):
            assert row[1] == f"`{str(field.default).lower()}`"
        elif isinstance(field.default, str):
            assert row[1] == f"`{field.default}`"
        else:
            assert float(row[1].split(",")[0]) == field.default


def test_options_of_detectors_are_right() -> None:
    for field in dataclasses.fields(OnnxOptions):
        row = re.search(rf"^\| `{field.name}` \|.*\| ([^|]+) \|$", page("detector-layouts"), re.MULTILINE)
        assert row, field.name
        assert field.default is None or float(row[1]) == field.default


def test_the_manifest_is_listed(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    shown = page("bundle-format")
    keys = re.findall(r"^\| `(\w+)` \|", shown.split("## manifest.json")[1].split("\n## ")[0], re.MULTILINE)
    assert set(keys) - {"int8", "drafts"} == set(bundle.manifest) - {"int8", "drafts"}
    for field in dataclasses.fields(Dimensions):
        assert f"`{field.name}`" in shown
    graphs = shown.split("## Graphs")[1].split("\n## ")[0]
    for graph in bundle.manifest["graphs"].values():
        for tensor in (*graph["inputs"], *graph["outputs"]):
            assert f"`{tensor['name']}`" in graphs
    for array in ("crops", "tokens", "log_probs"):
        assert array in bundle.golden()


def test_exit_codes_are_listed() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page("exit-codes"), re.MULTILINE)}
    assert {0, 1, console.USAGE_ERROR, console.INTERRUPTED} == codes


def test_the_boxes_of_the_page_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "boxes.jsonl"
    file.write_text(blocks(REFERENCE / "boxes-from-outside.md", "json")[0], encoding="utf-8")
    import numpy as np

    from seqpar_deploy.video import Frame

    detections = ExternalDetections(file)
    blank = np.zeros((9, 9, 3), np.uint8)
    frames = [Frame(stream="street", index=index, timestamp=index / 10, image=blank) for index in (11, 12, 13)]
    assert [len(detections.detect(frame)) for frame in frames] == [0, 2, 0]
    detections.close()


def test_events_of_the_page_fit_the_schema() -> None:
    schema = json.loads((REFERENCE / "events.schema.json").read_text(encoding="utf-8"))
    parts = [schema["$defs"][one["$ref"].rpartition("/")[2]] for one in schema["oneOf"]]
    for example, part in zip(blocks(REFERENCE / "events.md", "json"), parts, strict=True):
        assert set(part["required"]) <= set(json.loads(example)) <= set(part["properties"])
    tables = page("events").split("| event | emitted |")[1:]
    told = [set(re.findall(r"^\| `(\w+)` \|", table.split("\n\n")[0], re.MULTILINE)) for table in tables]
    from seqpar_deploy.video import Event, ZoneEvent

    kinds = [set(get_args(get_type_hints(kind)["kind"])) for kind in (Event, ZoneEvent)]
    person, zone, count = (set(part["properties"]["event"]["enum"]) for part in parts)
    assert told == kinds == [person, zone | count]


@pytest.mark.slow
def test_the_words_are_plain() -> None:
    """The limits that each kind of text keeps; `benchmarks/words.py` prints all of them."""
    command = [sys.executable, str(ROOT / "benchmarks" / "words.py"), "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    kinds = ("docs", "docstrings", "help", "all")
    at_most = {(kind, word) for kind in kinds for word in ("what", "where", "semicolons")}
    at_least = {(kind, "default") for kind in kinds}
    assert {key: found[key[0]][key[1]] for key in at_most if found[key[0]][key[1]] > 2} == {}
    assert {key: found[key[0]][key[1]] for key in at_least if found[key[0]][key[1]] < 2} == {}
