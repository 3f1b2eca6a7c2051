"""The shape of the code that a linter does not hold: lengths, and names that stay inside their module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = [*sorted((ROOT / "seqpar_deploy").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]
LONGEST_FILE, LONGEST_FUNCTION = 400, 80  # lines: a file is read in one sitting, a function fits a screen


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in PYTHON:
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_no_file_is_over_400_lines() -> None:
    files = [*PYTHON, *(ROOT / "tests").rglob("*.py")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_over_80_lines() -> None:
    lengths = {
        f"{name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


def test_private_names_stay_in_their_module() -> None:
    imported = [
        f"{name}: {node.module}.{alias.name}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seqpar_deploy")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert imported == []
