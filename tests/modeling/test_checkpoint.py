"""Published checkpoints load; hostile, truncated and unfitting ones are refused in one line and run nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import DATA, Golden, tiny_architecture
from torch import Tensor

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.resources import load_label_set

GOLDEN = DATA / "golden" / "pa100k-a.checkpoint.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the published training saves it: NumPy scalars beside the state dict."""
    path = tmp_path_factory.mktemp("published") / "f1_best.pth"
    state_dict = {name: value.float() for name, value in load_checkpoint(GOLDEN).state_dict.items()}
    scores = {"valid_ma": np.float64(0.87), "valid_f1": np.float32(0.9)}
    torch.save({"epoch": 7, "model_state_dict": state_dict, **scores}, path)
    return path


def test_a_published_file_equals_the_golden_one(published: Path, golden: Callable[[str], Golden]) -> None:
    model = build_model(load_checkpoint(published), load_label_set("pa100k"), decoder_heads=4)
    for name, value in golden("pa100k-a").model.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=0, rtol=0)


def test_dimensions_come_from_the_weights(golden: Callable[[str], Golden]) -> None:
    a = golden("peta-a").model.architecture
    assert (a.attributes, a.layers, a.heads, a.head_size, a.ffn) == (35, 3, 4, 16, 128)
    assert (a.image_size, a.image_tokens, a.embed_dim) == (64, 17, 64)


class Hostile:
    """What unpickles to a command that makes a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self._file}",)


def test_a_hostile_file_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pth"
    torch.save({"model_state_dict": {"w": torch.zeros(1)}, "valid_ma": Hostile(tmp_path / "was-here")}, path)
    with pytest.raises(CheckpointError, match=r"hostile\.pth .*got [\w.]+, .*run code"):
        load_checkpoint(path)
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("rows", [torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.tensor([0, 10**6]), None])
def test_token_rows_that_do_not_fit(tmp_path: Path, rows: Tensor | None) -> None:
    weights = {} if rows is None else {"clip_model.token_embedding.weight": torch.zeros(2, 4)}
    table = torch.zeros(1, dtype=torch.int64) if rows is None else rows
    safetensors.torch.save_file(weights | {"clip_model.token_embedding.rows": table}, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"rows .*clip_model\.token_embedding\.weight"):
        load_checkpoint(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.999])
def test_truncated_pth(published: Path, tmp_path: Path, keep: float) -> None:
    content = published.read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(CheckpointError, match=r"cut\.pth .*damaged"):
        load_checkpoint(path)


def test_what_is_no_checkpoint_is_one_line_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "LICENSE"
    path.write_text("Apache License")
    with pytest.raises(CheckpointError, match="LICENSE") as refused:
        load_checkpoint(path)
    assert "weights_only" not in str(refused.value)


def test_a_checkpoint_that_states_its_architecture_takes_no_other(tmp_path: Path) -> None:
    path, labels = tmp_path / "own.safetensors", load_label_set("pa100k")
    save_checkpoint(path, random_model(tiny_architecture(26), seed=3), labels, dtype=torch.float32)
    for options in ({"decoder_heads": 7}, {"encoder": "nope"}):
        with pytest.raises(CheckpointError, match=r"own\.safetensors .*--encoder"):
            build_model(load_checkpoint(path), labels, **options)


@pytest.mark.parametrize(
    ("size", "value"), [("heads", 65_535), ("layers", 2**40), ("ffn", 2**40), ("embed_dim", 2**31)]
)
def test_stored_sizes_are_compared_before_they_are_built(tmp_path: Path, size: str, value: int) -> None:
    """They would take all memory of the machine, or for ever."""
    path, labels = tmp_path / "own.safetensors", load_label_set("pa100k")
    save_checkpoint(path, random_model(tiny_architecture(26), seed=3), labels, dtype=torch.float32)
    with safetensors.safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["seqpar"])
    values["architecture"][size] = value
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, metadata={"seqpar": json.dumps(values)})
    with pytest.raises(CheckpointError) as refused:
        build_model(load_checkpoint(path), labels)
    assert "\n" not in str(refused.value)


def test_truncated_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(GOLDEN.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"safetensors file.*damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("metadata", ["[]", '{"phrases": 3}', "[" * 100_000, "{"])
def test_malformed_metadata(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(1)}, path, metadata={"seqpar": metadata})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors .*damaged"):
        load_checkpoint(path)


def test_files_without_a_state_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="state dict"):
        load_checkpoint(tmp_path / "list.pth")
    values = {"clip_model.visual.proj": torch.zeros(1), "decoder.fc.weight": "text"}
    torch.save({"model_state_dict": values}, tmp_path / "text.pth")
    with pytest.raises(CheckpointError, match=r"'decoder\.fc\.weight' .*tensor"):
        load_checkpoint(tmp_path / "text.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.pth")


def altered(change: Callable[[dict[str, torch.Tensor]], object], tmp_path: Path) -> Path:
    state_dict = dict(load_checkpoint(GOLDEN).state_dict)
    change(state_dict)
    torch.save({"model_state_dict": state_dict}, tmp_path / "altered.pth")
    return tmp_path / "altered.pth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("decoder.layers.1.pwff.fc1.bias"), "lacks decoder.layers.1.pwff.fc1.bias"),
        (lambda d: d.pop("decoder.fc.weight"), "SequencePAR .*decoder.fc.weight"),
        (lambda d: d.update(extra=torch.zeros(1)), "unknown weights: extra"),
        (lambda d: d.update({"clip_model.ln_final.bias": torch.zeros(3)}), r"shape \(64,\), got \(3,\)"),
    ],
)
def test_weights_that_do_not_fit(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(altered(change, tmp_path))
    with pytest.raises(CheckpointError, match=message):
        build_model(checkpoint, load_label_set("pa100k"), decoder_heads=4)


def test_the_wrong_label_set() -> None:
    with pytest.raises(CheckpointError, match="26 attributes, got peta with 35"):
        build_model(load_checkpoint(GOLDEN), load_label_set("peta"), decoder_heads=4)


def test_the_wrong_phrases(tmp_path: Path) -> None:
    labels = load_label_set("pa100k")
    save_checkpoint(
        tmp_path / "short.safetensors",
        random_model(tiny_architecture(len(labels))),
        labels,
        dtype=torch.float16,
    )
    checkpoint = load_checkpoint(tmp_path / "short.safetensors")
    build_model(checkpoint, labels)
    with pytest.raises(CheckpointError, match=r"phrase 'female', .*--sentences"):
        build_model(checkpoint, load_label_set("pa100k", sentences=True))


def test_heads_that_cannot_be_told() -> None:
    with pytest.raises(CheckpointError, match="pass --decoder-heads"):
        build_model(load_checkpoint(GOLDEN), load_label_set("pa100k"))


def test_unknown_encoder() -> None:
    with pytest.raises(CheckpointError, match="open_clip model, got 'ViT-Z'"):
        build_model(load_checkpoint(GOLDEN), load_label_set("pa100k"), encoder="ViT-Z", decoder_heads=4)
