"""Options that have no effect without another one are refused, not ignored: one line that names both."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.run import run

from seqpar_deploy.resources import sample_crops

CROP = sample_crops()[0]


@pytest.mark.parametrize(
    ("words", "option", "needed"),
    [
        (["parity", "B", "--crops", 8], "--crops", "--checkpoint"),
        (["parity", "B", "--explain"], "--explain", "--checkpoint"),
        (["parity", "B", "--decoder-heads", 4], "--decoder-heads", "--checkpoint"),
        (["parity", "B", "--split", "test"], "--split", "--data"),
        (["predict", CROP, "-b", "B", "--fallback-margin", 0.1], "--fallback-margin", "--compute-precision"),
        (
            ["predict", CROP, "-b", "B", "--fallback-margin", 0, "--compute-precision", "native"],
            "--fallback-margin",
            "--compute-precision",
        ),
        (["bench", "run", "B", "--device", "cuda"], "--device cuda", "--checkpoint"),
        (["bench", "B", "--encoder", "ViT-B-16"], "--encoder", "--checkpoint"),
        (["synth", "--sheet", "sheet.png", "--train", 0], "--train", "FOLDER"),
        (["synth", "--sheet", "sheet.png", "--workers", 2], "--workers", "FOLDER"),
        (
            ["train", "--data", "D", "--label-set", "peta", "--out", "O", "--validate-every", 2],
            "--validate-every",
            "--validation",
        ),
    ],
    ids=lambda value: " ".join(map(str, value[:1])) if isinstance(value, list) else value,
)
def test_an_option_without_effect_is_refused(
    words: list[object], option: str, needed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = run("seqpar", *words, code=2).error
    assert error.startswith(f"error: {option} needs {needed}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["bench", "eval"])
def test_a_gpu_that_is_missing_is_named(
    command: str, bundle_dir: Path, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    table = tmp_path / "people.jsonl"
    table.write_text(f'{{"image": "{CROP}", "attributes": []}}\n')
    words: dict[str, list[object]] = {
        "bench": ["run", bundle_dir, "--checkpoint", checkpoint_file, "--device", "cuda"],
        "eval": [checkpoint_file, "--data", table, "--backend", "torch-cuda"],
    }
    error = run("seqpar", command, *words[command], code=2).error
    assert "cuda" in error
    assert "GPU" in error
