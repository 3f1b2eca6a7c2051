"""Two benchmark results compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqpar_deploy.bench.regression import compare
from seqpar_deploy.errors import SeqparError


def write(path: Path, seconds: dict[str, float], **more: Any) -> Path:
    variants = [{"name": name, "seconds": [value, value, 50 * value]} for name, value in seconds.items()]
    path.write_text(json.dumps({"variants": variants, **more}))
    return path


def test_ratios_are_of_medians_and_only_of_what_both_have(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", {"published": 8.0, "openvino": 1.0})
    second = write(tmp_path / "b.json", {"openvino": 1.2, "onnxruntime": 1.0})
    found = compare(first, second)
    assert found.ratios == pytest.approx({"openvino": 1.2})
    assert found.slower_than(1.1) == pytest.approx({"openvino": 1.2})
    assert found.slower_than(1.25) == {}
    assert "1.200" in found.format()
    assert found.notes == ("only the first has published", "only the second has onnxruntime")


def test_what_else_differs_is_noted(tmp_path: Path) -> None:
    machine = {"processor": "one", "cores": 2, "packages": {"openvino": "1"}}
    other = {"processor": "other", "cores": 2, "packages": {"openvino": "2"}}
    first = write(tmp_path / "a.json", {"openvino": 1.0}, machine=machine, settings={"crops": 1})
    second = write(tmp_path / "b.json", {"openvino": 1.0}, machine=other, settings={"crops": 4})
    notes = "\n".join(compare(first, second).notes)
    for part in ("the machines differ: processor one, then other", "openvino 1, then 2", "the settings differ"):
        assert part in notes
    assert compare(first, first).notes == ()


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", {"openvino": 1.0})
    other = write(tmp_path / "b.json", {"published": 1.0})
    (tmp_path / "no.json").write_text("[]")
    (tmp_path / "half.json").write_text("{")
    for second, variant, message in (
        (other, None, "no variant in common"),
        (other, "openvino", "published, as in .*b.json, got 'openvino'"),
        (tmp_path / "no.json", None, "must be a result of seqpar-bench"),
        (tmp_path / "half.json", None, "JSON"),
        (tmp_path / "none.json", None, "none.json cannot be read"),
    ):
        with pytest.raises(SeqparError, match=message):
            compare(first, second, variant=variant)


def test_what_is_lost_or_says_something_else_is_no_gain(tmp_path: Path) -> None:
    def results(**identical: bool) -> Path:
        variants = [{"name": name, "seconds": [1.0], "identical": same} for name, same in identical.items()]
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({"variants": variants}))
        return path

    first = results(openvino=True, onnxruntime=True, int8=False)
    assert compare(first, results(openvino=True, onnxruntime=True, int8=False, new=False)).lost == ()
    assert compare(first, results(openvino=True, onnxruntime=False, int8=False)).lost == ("onnxruntime",)
    assert compare(first, results(openvino=True)).lost == ("onnxruntime", "int8")
    assert compare(first, results(openvino=True), variant="openvino").lost == ()


@pytest.mark.parametrize("seconds", [[], [0.0], [float("nan")], [-1.0], ["x"], None])
def test_times_that_are_none_are_refused(tmp_path: Path, seconds: Any) -> None:
    first = write(tmp_path / "a.json", {"openvino": 1.0}, machine=None, packages=None)
    (tmp_path / "b.json").write_text(json.dumps({"variants": [{"name": "openvino", "seconds": seconds}]}))
    with pytest.raises(SeqparError, match="must be a result of seqpar-bench"):
        compare(first, tmp_path / "b.json")
    assert compare(first, first).notes == ()


@pytest.mark.parametrize(("factor", "code"), [("1.1", 1), ("1.3", 0), ("0", 2), ("nan", 2)])
def test_the_exit_code_says_whether_it_is_slower(tmp_path: Path, factor: str, code: int) -> None:
    files = [str(write(tmp_path / f"{seconds}.json", {"openvino": seconds})) for seconds in (1.0, 1.2)]
    command = [Path(sys.executable).parent / "seqpar-bench", "compare", *files, "--fail-above", factor]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code
