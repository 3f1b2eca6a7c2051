"""The parts of benchmarks/gpu_check.py: bounded stages, the time of a step, the summary, and carrying wheels."""

from __future__ import annotations

import copy
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpar_deploy.backends.base import StepOutput
from seqpar_deploy.vocab import EOS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BOUND = 300  # seconds, of any wait

STAGES = """
import os, signal, subprocess, sys, time

def hangs(job, report):
    report(first=1)
    with report.step("quick"):
        report(second=2)
    with report.step("endless"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        report(child=child.pid)
        time.sleep(600)

def crashes(job, report):
    report(first=1)
    with report.step("risky"):
        os.kill(os.getpid(), signal.SIGSEGV)

def exits(job, report):
    os._exit(7)

def raises(job, report):
    report(first=1)
    with report.step("risky"):
        raise ValueError("no good")

def lacks(job, report):
    from seqpar_deploy.errors import BackendUnavailableError
    raise BackendUnavailableError("the SDK is missing")

def works(job, report):
    print("a library's own words")
    report(sum=job["one"] + job["two"])
"""


@pytest.fixture(scope="module", autouse=True)
def on_the_path() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one of the stages above."""
    (tmp_path / "some_stages.py").write_text(STAGES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    run_stage = importlib.import_module("gpu_process").run_stage
    return lambda name, job=None, **options: run_stage(f"some_stages:{name}", job or {}, **{"seconds": BOUND} | options)


def test_a_stage_returns_its_figures_and_words(run: Any) -> None:
    found = run("works", {"one": 1, "two": 2})
    assert (found["sum"], found["said"]) == (3, ["a library's own words"])
    assert not found.keys() & {"failed", "crashed", "stopped", "at"}


def test_a_killed_stage_keeps_what_it_had(run: Any) -> None:
    seen: list[dict[str, Any]] = []
    found = run("hangs", seconds=8, on_values=lambda values: seen.append(copy.deepcopy(values)))
    assert (found["first"], found["second"], found["at"]) == (1, 2, "endless")
    assert found["step_seconds"].keys() == {"quick"}
    assert re.fullmatch(r"after \d+ s, \d+ s into: endless", found["stopped"])
    assert {"first": 1} in seen  # kept as it came
    assert any("hangs" in line for line in found["said"])  # where it hung
    assert not alive(found["child"])  # nor what it had started


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_signal_stops_a_stage(run: Any) -> None:
    seen: list[object] = []
    found = run("hangs", on_values=seen.append, stopping=lambda: bool(seen))
    assert "signal" in found["stopped"]
    assert found["first"] == 1


def test_a_crash_is_named_and_the_next_stage_runs(run: Any) -> None:
    found = run("crashes")
    assert "SIGSEGV" in found["crashed"]
    assert (found["first"], found["at"]) == (1, "risky")
    assert any("crashes" in line for line in found["said"])
    assert "exit code 7" in run("exits")["crashed"]
    assert run("works", {"one": 1, "two": 2})["sum"] == 3


def test_an_exception_is_a_result(run: Any) -> None:
    found = run("raises")
    assert (found["failed"], found["first"], found["at"]) == ("ValueError: no good", 1, "risky")
    assert run("lacks")["unavailable"] == "the SDK is missing"


# The time of a step


class Ahead:
    """A device that runs in pieces of four steps, and is a piece ahead of the host, which stops looking at `<eos>`."""

    def __init__(self, lost: int = 0) -> None:
        self.executed, self._lost = 0, lost

    def encode(self, crops: Any) -> Any:
        return crops

    def greedy(self, state: Any, *, stop: int, max_steps: int) -> StepOutput:
        tokens = np.full((len(state), max_steps), EOS)
        tokens[:, :5] = 7
        ends = np.flatnonzero((tokens == stop).all(axis=0))
        returned = min(max_steps, -(-(ends[0] + 1) // 4) * 4 if len(ends) else max_steps) - self._lost
        self.executed += min(max_steps, returned + 4)
        return StepOutput(np.zeros((len(state), returned, 9), np.float32), tokens[:, :returned])


def test_all_steps_that_run_are_counted() -> None:
    stages = importlib.import_module("gpu_stages")
    crops, device = np.zeros((2, 3)), Ahead()
    assert device.greedy(crops, stop=EOS, max_steps=20).next_token.shape[1] < device.executed  # a wrong division
    device = Ahead()
    stages.decode_steps(device, crops, 20)
    assert device.executed == 20
    with pytest.raises(ValueError, match="20, got 19"):
        stages.decode_steps(Ahead(lost=1), crops, 20)


def test_the_host_decodes_as_many_steps() -> None:
    stages = importlib.import_module("gpu_stages")

    class Host:
        executed = 0

        def step(self, state: Any, tokens: Any) -> StepOutput:
            self.executed += 1
            state.lengths = state.lengths + 1
            return StepOutput(np.zeros((2, 1, 9), np.float32), np.full((2, 1), EOS))

    class State:
        lengths = np.zeros(2, np.int64)

    host = Host()
    stages.decode_steps(host, State(), 20)
    assert host.executed == 20


# The summary


def figures(**stages: Any) -> dict[str, Any]:
    good = {
        "parity": {"identical": 10, "identical_share": 1.0, "breaches": [], "slots_that_differ": 0},
        "speed": {"latency_ms": {"p50": 2.0}, "crops_per_second": 2500.0},
        "mixed": {"interleaved": {"rows": 9, "ties": 0, "wrong": 0}},
        "soak": {"rounds": 3, "growth": {"device_mb": 0.0, "resident_mb": 1.0, "threads": 0, "files": 0}},
    }
    return good | stages


REPLAYED = {"rows": 9, "tokens_that_differ": 0, "largest_difference": 0.0, "one_crop_ms": 2.0}
REPLAYS = {"cuda_graphs": True, "no graphs": REPLAYED | {"one_crop_ms": 5.0}}


def variant(greedy: float, drafted: float) -> dict[str, Any]:
    kinds = {"greedy": greedy, "right drafts": drafted}
    return {"columns": 4, "pooled_error": 0.01} | {kind: {"one_crop_ms": ms, "wrong": 0} for kind, ms in kinds.items()}


WIDTHS = {"mixed": {"wrong": 0}, "1:2.5 whole": variant(4.0, 3.5), "1:2.5 trimmed": variant(3.0, 2.0)}


def changed(name: str, key: str, value: Any) -> dict[str, Any]:
    """The figures of widths, with one of a variant's changed."""
    before = WIDTHS[name][key]
    return WIDTHS | {name: WIDTHS[name] | {key: before | value if isinstance(value, dict) else value}}  # type: ignore


def summary(models: dict[str, Any], backends: list[str]) -> list[str]:
    eager = {"eager cached": {"latency_ms": {"p50": 20.0}}}
    values = {"crops": 10, "minutes": 7.0, **{name: eager | model for name, model in models.items()}}
    lines: list[str] = importlib.import_module("gpu_summary").summary(values, backends)
    return lines


def test_the_summary_has_ten_lines_at_most() -> None:
    names = ["tensorrt_rtx", "tensorrt", "onnxruntime-cuda"]
    broken = {"crashed": "by SIGSEGV after 3 s"}
    model = {name: figures(build={"engines": {}}, mixed=broken, soak=broken) for name in names}
    lines = summary({"full": model, "demo": model}, names)
    assert 8 <= len(lines) <= 10
    assert re.search(r"not finished: full tensorrt_rtx mixed \(crashed by SIGSEGV.*and 6 more", lines[-1])
    assert all(
        any(line.startswith(f"{size} {name}: ") for line in lines) for size in ("full", "demo") for name in names
    )


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({}, ["works", "2.00 ms", "10.0x", "2500 crops/s", "no leaks"]),
        ({"not_installed": "pip install it"}, ["not installed", "pip install it"]),
        ({"unavailable": "compute capability 9.0"}, ["not supported", "compute capability 9.0"]),
        ({"parity": {"failed": "no profile"}}, ["not supported", "no profile"]),
        ({"build": {"stopped": "after 9 s"}, "parity": {}}, ["not known", "build stopped after 9 s"]),
        ({"parity": {"crashed": "by SIGSEGV"}}, ["not known", "parity crashed by SIGSEGV"]),
        ({"mixed": {"threads": {"rows": 90, "ties": 0, "wrong": 4}}}, ["wrong tokens", "threads 4 of 90 rows"]),
        ({"parity": figures()["parity"] | {"breaches": ["greedy: crop 3"]}}, ["wrong tokens", "greedy: crop 3"]),
        ({"parity": figures()["parity"] | {"slots_that_differ": 2}}, ["wrong tokens", "2 slots"]),
        ({"replays": {"graphs": {"rows": 9, "tokens_that_differ": 1}}}, ["wrong tokens", "1 of 9 rows in replays"]),
        ({"replays": REPLAYS | {"graphs": {"unavailable": "too old"}}}, ["works", "no CUDA graphs: too old"]),
        ({"replays": REPLAYS | {"graphs": REPLAYED}}, ["works", "replays equal, 5.00 -> 2.00 ms"]),
        ({"replays": REPLAYS | {"graphs": REPLAYED | {"largest_difference": 0.5}}}, ["works", "replays differ by 0.5"]),
        ({"widths": WIDTHS}, ["works", "1:2.5 whole, trimmed, drafted 4.00 -> 3.00 -> 2.00 ms"]),
        ({"widths": {"mixed": {"wrong": 0}}}, ["works", "1:2.5 not trimmed"]),
        ({"widths": {"mixed": {"rows": 9, "wrong": 2}}}, ["wrong tokens", "mixed widths 2 rows"]),
        ({"widths": changed("1:2.5 trimmed", "greedy", {"wrong": 3})}, ["wrong tokens", "1:2.5 trimmed 3 rows"]),
        ({"widths": changed("1:2.5 whole", "pooled_error", 0.3)}, ["wrong tokens", "1:2.5 whole pooled off by 0.3"]),
        ({"widths": changed("1:2.5 whole", "pooled_error", float("nan"))}, ["wrong tokens", "pooled off by nan"]),
        ({"mixed": {"stopped": "after 45 s"}}, ["works in part", "mixed stopped after 45 s"]),
        ({"soak": {"rounds": 4, "growth": {"device_mb": 300.0, "files": 2}}}, ["works", "device_mb +300", "files +2"]),
        (
            {"placement": {name: {"on_cpu": {"Equal": 2}, "memcpy": 3} for name in ("encoder", "decoder_step")}},
            ["works", "nodes on CPU", "decoder_step 2 (Equal), Memcpy 3"],
        ),
    ],
)
def test_the_summary_says_how_a_runtime_is(stages: dict[str, Any], words: list[str]) -> None:
    line = summary({"full": {"onnxruntime-cuda": figures(**stages)}}, ["onnxruntime-cuda"])[1]
    assert [word for word in words if word not in line] == []
    assert line.startswith(f"full onnxruntime-cuda: {words[0]}")


# Wheels


def wheels_script(*options: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it without the package, whose dependencies it may have to install."""
    command = [sys.executable, str(BENCHMARKS / "gpu_wheels.py"), *map(str, options)]
    env = os.environ | {"PYTHONPATH": str(path or "")}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOUND, env=env)


@pytest.fixture
def groups(tmp_path: Path) -> list[Path]:
    """Two files as wheels, of 100 and of 250 bytes, in groups of 120 bytes."""
    files = []
    for name, size in (("small", 100), ("large", 250)):
        files.append(tmp_path / f"{name}-1.0-py3-none-any.whl")
        files[-1].write_bytes(bytes(number % 251 for number in range(size)))
    found: list[Path] = importlib.import_module("gpu_wheels").split(files, tmp_path / "out", 120)
    return found


def test_wheels_are_split_into_groups_and_joined(tmp_path: Path, groups: list[Path]) -> None:
    assert [sum(f.stat().st_size for f in group.glob("*.whl.*")) for group in groups] == [120, 120, 110]
    for group in groups:
        assert wheels_script("keep", group, "--kept", tmp_path / "kept").returncode == 0
    joined = importlib.import_module("gpu_wheels").join(tmp_path / "kept")
    assert [file.name for file in joined] == ["small-1.0-py3-none-any.whl", "large-1.0-py3-none-any.whl"]
    assert [file.read_bytes() for file in joined] == [(tmp_path / file.name).read_bytes() for file in joined]
    calls = importlib.import_module("gpu_wheels").calls(groups)
    assert [line for line in calls if "carry" in line and "group-02" in line and "none" in line]
    assert [line for line in calls if "carry" in line and "group-03" in line and "large" in line]


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, groups: list[Path]) -> None:
    kept = tmp_path / "kept"
    for group in (groups[0], groups[2]):
        wheels_script("keep", group, "--kept", kept)
    done = wheels_script("install", "--kept", kept)
    assert (done.returncode, "group-02" in done.stderr) == (1, True)
    (small,) = importlib.import_module("gpu_wheels").join(kept, some=True)
    assert small.name.startswith("small")
    wheels_script("keep", groups[1], "--kept", kept)
    part = next(kept.glob("large*.001"))
    part.write_bytes(b"x" + part.read_bytes()[1:])
    done = wheels_script("install", "--kept", kept)
    assert (done.returncode, "SHA-256" in done.stderr, "group-02" in done.stderr) == (1, True, True)


def test_wheels_are_installed_without_an_index(tmp_path: Path) -> None:
    plan = importlib.import_module("gpu_wheels")
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    make_wheel(wheel)
    for group in plan.split([wheel], tmp_path / "out", 200):
        wheels_script("keep", group, "--kept", tmp_path / "kept")
    done = wheels_script("install", "--kept", tmp_path / "kept", "--target", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "tiny.py").read_text() == "ANSWER = 42\n"
    again = wheels_script(
        "install", "--kept", tmp_path / "kept", "--target", tmp_path / "other", path=tmp_path / "site"
    )
    assert (again.returncode, "left alone: tiny 1.0" in again.stdout) == (0, True)
    assert not (tmp_path / "other").exists()


def test_a_plan_is_the_calls_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "tiny-1.0-py3-none-any.whl")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    done = wheels_script("plan", "tiny", "--out", tmp_path / "out", "--call-mb", 0.0005)
    assert done.returncode == 0, done.stderr
    groups = sorted((tmp_path / "out").glob("group-*"))
    assert len(groups) > 1
    places = [done.stdout.index(f"carry {group}") for group in groups] + [done.stdout.rindex("install")]
    assert places == sorted(places)
    done = wheels_script("plan", "absent", "--out", tmp_path / "out")
    assert (done.returncode, "absent cannot be downloaded" in done.stderr) == (1, True)


def make_wheel(path: Path) -> None:
    import zipfile

    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "ANSWER = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
