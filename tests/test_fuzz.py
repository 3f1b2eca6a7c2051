"""benchmarks/fuzz.py: a short run, and planted faults that its harness must report."""

from __future__ import annotations

import ctypes
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seqpar_deploy.onnx_file import check_head

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "fuzz.json"
BOUND = 600  # seconds, of any wait
SHORT = 100  # inputs


@pytest.fixture(scope="module")
def mutate() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import fuzz_mutate

    yield fuzz_mutate
    sys.path.remove(str(ROOT / "benchmarks"))


def refuse(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)
    sys.exit(2)


def raise_fault() -> None:
    raise KeyError("planted")


def hang() -> None:
    while True:
        time.sleep(1)


def hang_in_a_thread() -> None:
    threading.Thread(target=hang).start()


def crash() -> None:
    ctypes.string_at(0)


def leave_part() -> None:
    Path("out/.bundle.partial").write_text("x")
    refuse("error: out must be writable, got a full disk")


def cut_a_line() -> None:
    Path("out/events.jsonl").write_text('{"a": 1}\n{"a"')


FAULTS: dict[str, tuple[Callable[[], object], str, str]] = {  # function, outcome, part of the evidence
    "exception": (raise_fault, "traceback", "planted"),
    "crash": (crash, "crash", "11"),
    "hang": (hang, "hang", "test_fuzz.py"),
    "thread that never ends": (hang_in_a_thread, "hang", ""),
    "program": (lambda: os.system("true"), "code run", "os.system"),
    "canary": (lambda: Path("../../canary").touch(), "code run", ""),
    "pickle": (lambda: __import__("pickle").loads(b"cos\ngetpid\n."), "code run", "getpid"),
    "file in the parent": (lambda: Path("../../escaped").write_text("x"), "outside", "escaped"),
    "file elsewhere": (lambda: Path(__file__).open("r+").close(), "outside", "test_fuzz.py"),
    "changed input": (lambda: Path("in/input").write_text("changed"), "outside", "input"),
    "leftover": (leave_part, "leftovers", ".bundle.partial"),
    "temporary file": (lambda: Path("tmp/x").write_text("x"), "leftovers", "x"),
    "half a line": (cut_a_line, "half-written", "events.jsonl"),
    "memory": (lambda: b"x" * (200 << 20), "memory", "MB"),
    "exit code": (lambda: sys.exit(1), "exit code", "1"),
    "silence": (lambda: refuse(), "error lines", "0 lines"),
    "two errors": (lambda: refuse("error: a", "error: b"), "error lines", "2 lines"),
    "error and success": (lambda: print("error: a", file=sys.stderr), "error lines", "1 lines"),
    "text of a library": (lambda: refuse("error: a", "E0000 text_format.cc"), "stray text", "text_format"),
}


SOUND: dict[str, tuple[Callable[[], object], str, str]] = {
    "result": (lambda: Path("out/scores.json").write_text("{}"), "result", ""),
    "one line": (lambda: refuse("warning: b", "error: width must be 1, got 2; pass 1"), "refused", "width"),
    "events kept": (lambda: (Path("out/events.jsonl").write_text('{"a": 1}\n'), refuse("error: x")), "refused", "x"),
}


def run_planted(folder: Path) -> dict[str, tuple[str, str]]:
    """Run each function as if it were a command, and return outcomes and evidence by name."""
    import fuzz_runner

    def cases() -> Iterator[Any]:
        for number, (target, _, _) in enumerate((FAULTS | SOUND).values()):
            case = folder / str(number)
            (fuzz_runner.new_case(case) / "input").write_text("unchanged")
            kept = frozenset({"events.jsonl"})
            yield fuzz_runner.Case(folder=case, arguments=[], about="planted", kept=kept, target=target)

    limits = fuzz_runner.Limits(seconds=6, memory=64 << 20)
    names = list(FAULTS | SOUND)
    return {
        names[int(case.folder.name)]: (outcome.outcome, outcome.evidence)
        for case, outcome in fuzz_runner.run_all(cases(), workers=2, limits=limits)
    }


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """In a process of its own: this one may have threads, which a fork does not survive."""
    folders = os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks", ROOT / "tests")))
    command = [sys.executable, __file__, str(tmp_path_factory.mktemp("planted"))]
    environment = {**os.environ, "PYTHONPATH": folders}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOUND, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS | SOUND)
def test_planted_outcomes_are_reported(name: str, planted: Any) -> None:
    _, expected, evidence = (FAULTS | SOUND)[name]
    assert planted[name][0] == expected, planted[name]
    assert evidence in planted[name][1]


def test_the_same_numbers_make_the_same_input(mutate: ModuleType) -> None:
    data = (ROOT / "samples" / "crops" / "person-01-f0640.png").read_bytes()
    for change in (mutate.mutate_bytes, mutate.mutate_cells, mutate.mutate_json, mutate.mutate_zip, mutate.mutate_toml):
        made = [change(random.Random(seed), data) for seed in (1, 1, *range(2, 12))]
        assert made[0] == made[1]
        assert len(set(made)) > 3, change


def test_a_changed_graph_is_often_still_a_graph(mutate: ModuleType) -> None:
    from onnx import helper

    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []))
    data = model.SerializeToString()
    changed = {mutate.mutate_protobuf(random.Random(seed), data) for seed in range(60)}
    assert len(changed) > 20
    assert sum(map(_is_sound, changed)) > 5


def _is_sound(data: bytes) -> bool:
    try:
        check_head(data)
    except ValueError:
        return False
    return True


@pytest.mark.slow
def test_a_short_run_finds_no_fault(tmp_path: Path) -> None:
    """It takes most of its time to make the sound files."""
    out = tmp_path / "fuzz.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--count", str(SHORT), "--seconds", "120"]
    options = ["--out", str(out), "--keep", str(tmp_path / "kept"), "--workers", "2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=BOUND)
    result = json.loads(out.read_text())
    assert result["faults"] == [], done.stderr[-2000:]
    assert done.returncode == 0
    assert result["total"]["inputs"] >= SHORT - len(result["kinds"])
    assert result["total"]["result"] + result["total"]["refused"] == result["total"]["inputs"]
    assert all(kind["inputs"] for kind in result["kinds"].values())
    assert result["total"]["result"] > 5  # not everything is refused at the door
    assert not (tmp_path / "kept").exists()


@pytest.mark.skipif(not RESULT.exists(), reason="benchmarks/fuzz.py has not written its result")
def test_the_whole_run_is_recorded() -> None:
    result = json.loads(RESULT.read_text())
    assert (result["interrupted"], result["faults"]) == (False, [])
    assert result["total"]["inputs"] >= 2000
    kinds = {"checkpoints", "bundles", "pictures", "videos", "detectors", "tables", "logs", "settings"}
    assert set(result["kinds"]) == kinds
    for kind, entry in result["kinds"].items():
        assert entry["result"] + entry["refused"] == entry["inputs"], kind
        assert entry["result"] > 0, kind


if __name__ == "__main__":
    print(json.dumps(run_planted(Path(sys.argv[1]))))
