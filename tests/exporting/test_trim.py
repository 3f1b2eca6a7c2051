"""Export with `--trim`: a checkpoint of whole squares becomes a trimmed model."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MadeOnce, tiny_architecture

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.cli.info import info
from seqpar_deploy.cli.parity import parity
from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.load import load_network, redefined_as_trimmed
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def redefined_dir(made_once: MadeOnce, checkpoint_file: Path) -> Path:
    """The bundle of a checkpoint of whole squares, with 8-bit graphs, exported as trimmed."""
    return made_once("redefined", lambda out: export_bundle(checkpoint_file, load_recipe("int8"), out, trim=True))


def test_the_model_is_trimmed_and_says_so(redefined_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(redefined_dir)
    assert (bundle.padding, bundle.columns) == ("trimmed", (2, 4))
    assert bundle.manifest["parity"]["passed"]
    assert bundle.manifest["checkpoint"]["redefined"] == "trimmed"
    assert bundle.manifest["int8"]["identical"] > bundle.manifest["int8"]["crops"] / 2  # calibrated at both widths
    (card,) = (line for line in (redefined_dir / "model_card.md").read_text().splitlines() if "| padding |" in line)
    assert "--trim" in card
    assert "2 or all 4" in card
    info(redefined_dir)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  widths"))
    for part in ("2, 4 of 4", "--trim"):
        assert part in line


def test_a_model_of_whole_squares_says_so(bundle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (card,) = (line for line in (bundle_dir / "model_card.md").read_text().splitlines() if "| padding |" in line)
    assert "full" in card
    assert "--trim" not in card
    info(bundle_dir)
    assert "  widths" not in capsys.readouterr().out


def test_crops_are_read_without_their_padding(redefined_dir: Path, bundle_dir: Path, crops: list[Crop]) -> None:
    """A narrow person is read differently than with all padding, a square picture alike."""
    square = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    narrow = next(crop for crop in crops if crop.shape[0] > 2.2 * crop.shape[1])
    with (
        Recognizer.from_bundle(redefined_dir, backend="onnxruntime") as trimmed,
        Recognizer.from_bundle(bundle_dir, backend="onnxruntime") as whole,
    ):
        alike, other = zip(trimmed.predict([square, narrow]), whole.predict([square, narrow]), strict=True)
    np.testing.assert_allclose(alike[0].probabilities, alike[1].probabilities, atol=1e-4)
    assert (
        other[0].tokens != other[1].tokens or np.abs(np.subtract(other[0].log_probs, other[1].log_probs)).max() > 1e-3
    )


def test_the_checkpoint_is_trimmed_alike_in_parity(redefined_dir: Path, checkpoint_file: Path, tmp_path: Path) -> None:
    parity(redefined_dir, checkpoint=checkpoint_file, crops=2, explained=True, output=tmp_path / "parity.json")
    values = json.loads((tmp_path / "parity.json").read_text())
    assert values["passed"]
    assert values["pooled_max"] < 1e-4
    assert "agree within noise" in values["explanation"]["conclusion"]


def test_fp16_is_searched_for_overflows_at_every_width(checkpoint_file: Path, tmp_path: Path) -> None:
    bundle = export_bundle(checkpoint_file, load_recipe("fp16"), tmp_path / "bundle", trim=True)
    assert (bundle.columns, bundle.precision) == ((2, 4), "fp16")
    assert 1e-5 < bundle.manifest["parity"]["pooled_max"] < 2e-2


def test_checkpoints_that_cannot_be_redefined_are_refused(
    checkpoint_file: Path, label_set: LabelSet, tmp_path: Path
) -> None:
    def saved(columns: tuple[int, ...]) -> Path:
        made = random_model(dataclasses.replace(tiny_architecture(len(label_set)), columns=columns), seed=3)
        file = tmp_path / f"{columns}.safetensors"
        save_checkpoint(file, made, label_set, dtype=torch.float32)
        return file

    same = redefined_as_trimmed(load_network(saved((2, 4))))
    assert (same.network.architecture.columns, same.redefined) == ((2, 4), None)
    with pytest.raises(CheckpointError, match=r"trained on \[4\] patch columns.*without --trim"):
        redefined_as_trimmed(load_network(saved((4,))))
    loaded = load_network(checkpoint_file)
    unpadded = dataclasses.replace(label_set, preprocessing=dataclasses.replace(label_set.preprocessing, pad="none"))
    with pytest.raises(CheckpointError, match=r"padded to squares.*'none'.*without --trim"):
        redefined_as_trimmed(dataclasses.replace(loaded, label_set=unpadded))


def test_the_command_refuses_in_one_line(label_set: LabelSet, tmp_path: Path) -> None:
    made = random_model(dataclasses.replace(tiny_architecture(len(label_set)), columns=(4,)), seed=3)
    save_checkpoint(tmp_path / "a.safetensors", made, label_set, dtype=torch.float32)
    command = [Path(sys.executable).parent / "seqpar-export", "checkpoint", tmp_path / "a.safetensors", "--trim"]
    done = subprocess.run([*command, "--out", tmp_path / "b"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "--trim" in line
    assert not (tmp_path / "b").exists()
