"""The commands as a user types them: their output, and their errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli.run import run
from conftest import DATA
from PIL import Image

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.exporting import export
from seqpar_deploy.resources import sample_crops

pytestmark = pytest.mark.slow

CROPS = [str(path) for path in sample_crops()]


def test_predict_prints_a_table_and_annotates(bundle_dir: Path, tmp_path: Path) -> None:
    done = run("seqpar", "predict", *CROPS[:3], "-b", bundle_dir, "--annotate", tmp_path / "out")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [Path(path).name for path in CROPS[:3]]
    pictures = sorted((tmp_path / "out").iterdir())
    assert [picture.name for picture in pictures] == [Path(path).name for path in CROPS[:3]]
    with Image.open(pictures[0]) as picture:
        assert picture.height >= 480


def test_predict_prints_json_lines(bundle_dir: Path) -> None:
    folder = Path(CROPS[0]).parent
    done = run("seqpar", "predict", folder, "-b", bundle_dir, "--json", "--beam", "3")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image"] for row in rows] == CROPS
    assert all(0 <= attribute["score"] <= 1 for row in rows for attribute in row["attributes"])
    globbed = run("seqpar", "predict", f"{folder}/person-0*.png", "-b", bundle_dir, "--json", "--beam", "3")
    assert globbed.stdout.splitlines() == done.stdout.splitlines()[:9]


def test_predict_speculates_to_the_same_result(bundle_dir: Path) -> None:
    def rows(*options: str) -> list[dict[str, Any]]:
        done = run("seqpar", "predict", *CROPS, "-b", bundle_dir, "--json", *options)
        return [json.loads(line) for line in done.stdout.splitlines()]

    greedy, speculative = rows(), rows("--speculative", "--batch-size", "1")
    assert [row["tokens"] for row in speculative] == [row["tokens"] for row in greedy]
    assert sum(row["steps"] for row in speculative) < sum(row["steps"] for row in greedy)


def test_predict_goes_on_after_a_bad_picture(bundle_dir: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(Path(CROPS[0]).read_bytes()[:500])
    done = run("seqpar", "predict", bad, CROPS[0], "-b", bundle_dir, "--json", code=2)
    assert "bad.png" in done.error
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody.png"], "nobody.png"),
        (["nobody*.png"], "nobody*.png"),
        ([CROPS[0], "--backend", "onnxruntime-cuda"], "seqpar-deploy[cuda]"),
        ([CROPS[0], "--beam", "3", "--speculative"], "--beam must be 1 with --speculative, got 3"),
    ],
)
def test_predict_refuses_in_one_line(bundle_dir: Path, arguments: list[str], message: str) -> None:
    assert message in run("seqpar", "predict", *arguments, "-b", bundle_dir, code=2).error


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        (["--backend", "tpu"], "onnxruntime-cuda"),
        (["--compute-precision", "fp8"], "bf16"),
        (["--beam", "0"], "1"),
        (["--fallback-margin", "-1"], "0"),
    ],
)
def test_choices_and_limits_are_listed(bundle_dir: Path, options: list[str], listed: str) -> None:
    done = run("seqpar", "predict", CROPS[0], "-b", bundle_dir, *options, code=2)
    assert options[0] in done.stderr
    assert listed in done.stderr.splitlines()[-1]


def test_export_refuses_in_one_line_and_leaves_nothing(tmp_path: Path, checkpoint_file: Path) -> None:
    golden = DATA / "golden" / "pa100k-a.checkpoint.safetensors"
    for arguments, message in [
        ([tmp_path / "none.pth", "--label-set", "peta"], "none.pth"),
        ([golden], "--label-set"),
        ([golden, "--label-set", "petra"], "petra"),
        ([golden, "--label-set", "peta", "--decoder-heads", "4"], "26 attributes"),
        ([checkpoint_file, "--recipe", "fp8"], "'fp8'"),
    ]:
        done = run("seqpar-export", "checkpoint", *arguments, "--out", tmp_path / "bundle", code=2)
        assert message in done.error
    assert list(tmp_path.iterdir()) == []


def test_a_breach_of_parity_fails_the_export(tmp_path: Path, checkpoint_file: Path) -> None:
    from seqpar_deploy.resources import data_dir

    recipe = tmp_path / "strict.toml"
    recipe.write_text((data_dir("export") / "fp16.toml").read_text().replace("2e-2", "1e-12"))
    done = run("seqpar-export", "checkpoint", checkpoint_file, "--recipe", recipe, "--out", tmp_path / "b", code=2)
    assert "checkpoint" in done.error
    assert [path.name for path in tmp_path.iterdir()] == ["strict.toml"]


def test_export_prints_json(
    bundle_dir: Path, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "export_bundle", lambda *_, **__: Bundle.open(bundle_dir))
    words = ("export", "checkpoint", checkpoint_file, "--out", tmp_path / "b")
    values = json.loads(run("seqpar", *words, "--json").stdout)
    assert (values["bundle"], values["label_set"], values["precision"]) == (str(bundle_dir), "pa100k", "fp32")
    assert values["parity"]["identical"] <= values["parity"]["crops"]
    assert values["engines"] is None
    assert run("seqpar-export", *words[1:]).stdout.startswith(f"{bundle_dir}: pa100k, fp32; ")


def test_synth_prints_json(tmp_path: Path) -> None:
    counts = ("--train", 1, "--val", 0, "--test", 0, "--workers", 1)
    values = json.loads(run("seqpar", "synth", tmp_path / "s", *counts, "--json").stdout)
    assert values == {"folder": str(tmp_path / "s"), "sheet": None, "seed": 0, "train": 1, "val": 0, "test": 0}


def test_bench_prints_a_comparison_and_writes_json(bundle_dir: Path, checkpoint_file: Path, tmp_path: Path) -> None:
    result = tmp_path / "bench.json"
    options = ["--only", "published,onnxruntime", "--runs", "1", "--batches", "1", "--seconds", "0.01"]
    words = (bundle_dir, "--checkpoint", checkpoint_file, *options, "--output", result)
    done = run("seqpar-bench", *words)
    assert "PyTorch, as published" in done.stdout
    assert "roofline" in done.stdout
    values = json.loads(result.read_text())
    assert [variant["name"] for variant in values["variants"]] == ["published", "onnxruntime"]
    assert all(variant["identical"] for variant in values["variants"])
    assert values["machine"]["cores"] >= 1


def test_bench_measures_a_bundle_without_pytorch(bundle_dir: Path, tmp_path: Path) -> None:
    hidden = "import sys; sys.modules |= dict.fromkeys(('torch', 'onnx', 'open_clip', 'openvino'))"  # as if not there
    options = ["--runs", "1", "--batches", "1", "--seconds", "0.01", "--skip", "onnxruntime-speculative", "--json"]
    options += ["--output", str(tmp_path / "r.json")]
    call = f"{hidden}; sys.argv[1:] = {[str(bundle_dir), *options]}; import seqpar_deploy.cli.main as m; m.run_bench()"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values == json.loads((tmp_path / "r.json").read_text())
    assert [variant["name"] for variant in values["variants"]] == ["onnxruntime"]
    skipped = {entry["name"]: entry["why"] for entry in values["skipped"]}
    assert {"published", "eager", "eager-cached"} <= set(skipped)
    assert "pip install 'seqpar-deploy[openvino]'" in skipped["openvino"]


def test_bench_compares_two_results(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps({"variants": [{"name": "x", "seconds": [1.0]}, {"name": "y", "seconds": [1.0]}]}))
    second.write_text(json.dumps({"variants": [{"name": "x", "seconds": [1.2]}, {"name": "y", "seconds": [0.9]}]}))
    both = ["seqpar-bench", "compare", first, second]
    assert "1.200" in run(*both).stdout
    done = run(*both, "--fail-above", "1.1", code=1)
    assert done.stdout.splitlines()[-1].endswith("1.1: x 1.20x")
    done = run(*both, "--fail-above", "1.1", "--variant", "y")
    assert "no variant slower" in done.stdout.splitlines()[-1]
    values = json.loads(run(*both, "--fail-above", "1.1", "--json", "--output", tmp_path / "c.json", code=1).stdout)
    assert values == json.loads((tmp_path / "c.json").read_text())
    assert {variant["name"]: variant["ratio"] for variant in values["variants"]} == {"x": 1.2, "y": 0.9}
    assert values["slower"] == ["x"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "onnx"], "got 'onnx'"),
        (["--batches", "1,x"], "got '1,x'"),
        (["--only", "eager"], "--checkpoint"),
    ],
)
def test_bench_refuses_in_one_line(bundle_dir: Path, options: list[str], message: str) -> None:
    assert message in run("seqpar-bench", bundle_dir, *options, code=2).error


def test_bench_wants_the_checkpoint_of_the_bundle(bundle_dir: Path) -> None:
    other = DATA / "golden" / "pa100k-a.checkpoint.safetensors"
    done = run("seqpar-bench", bundle_dir, "--checkpoint", other, code=2)
    assert other.name in done.error
