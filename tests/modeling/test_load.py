"""One way from a checkpoint file to a network, and label sets that travel with checkpoints and bundles."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import tiny_architecture

from seqpar_deploy import Bundle
from seqpar_deploy.errors import CheckpointError, LabelSetError
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import Recipe
from seqpar_deploy.modeling.checkpoint import load_checkpoint, save_checkpoint
from seqpar_deploy.modeling.load import load_network
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.preprocess import Preprocessing
from seqpar_deploy.resources import data_dir, load_label_set
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own_labels() -> LabelSet:
    """A label set that is in no file: other names, phrases, groups and preprocessing than any that ships."""
    base = load_label_set("wider")
    attributes = tuple(
        dataclasses.replace(a, name=f"my {a.name}", phrase=f"wears {a.phrase}", group="all") for a in base.attributes
    )
    return LabelSet(
        name="my-shop",
        attributes=attributes,
        groups={"all": dataclasses.replace(next(iter(base.groups.values())), exclusive=True, momentary=True)},
        preprocessing=Preprocessing(pad="none", interpolation="bicubic", std=(0.25, 0.5, 0.75)),
        title="My shop",
        paper={"f1": 12.5},
    )


@pytest.fixture(scope="module")
def own_checkpoint(own_labels: LabelSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    save_checkpoint(path, random_model(tiny_architecture(len(own_labels)), seed=2), own_labels, dtype=torch.float32)
    return path


def with_metadata(path: Path, out: Path, **changes: Any) -> Path:
    """A copy of a checkpoint whose metadata are changed; None removes a key."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["seqpar"]) | changes
    metadata = {key: value for key, value in metadata.items() if value is not None}
    safetensors.torch.save_file(safetensors.torch.load_file(path), out, metadata={"seqpar": json.dumps(metadata)})
    return out


def test_the_label_set_travels_from_checkpoint_to_bundle(
    own_checkpoint: Path, own_labels: LabelSet, fp32_recipe: Recipe, tmp_path: Path
) -> None:
    loaded = load_network(own_checkpoint)
    assert loaded.label_set == own_labels
    assert loaded.token_table.shape == (len(own_labels) + 3, 48)
    assert not hasattr(loaded.network.clip_model, "transformer")
    parity = dataclasses.replace(fp32_recipe.parity, crops=1, rendered=0, beams=0, largest_batch=1)
    bundle = export_bundle(own_checkpoint, dataclasses.replace(fp32_recipe, parity=parity), tmp_path / "bundle")
    assert bundle.label_set == Bundle.open(tmp_path / "bundle").label_set == own_labels


def test_eval_needs_no_label_set_option(own_checkpoint: Path, own_labels: LabelSet, tmp_path: Path) -> None:
    names = [attribute.name for attribute in own_labels.attributes]
    crop = next((data_dir("samples") / "crops").glob("*.png"))
    (tmp_path / "people.jsonl").write_text(json.dumps({"image": str(crop), "attributes": names[:2]}) + "\n")
    command = ["seqpar_deploy", "eval", own_checkpoint, "--data", tmp_path / "people.jsonl"]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert names[0] in done.stdout


def test_a_label_set_option_comes_before_the_one_carried(own_checkpoint: Path, own_labels: LabelSet) -> None:
    renamed = dataclasses.replace(own_labels, title="Another title")
    assert load_network(own_checkpoint, label_set=renamed).label_set.title == "Another title"
    with pytest.raises(CheckpointError, match=r"phrase 'wears .*--sentences"):
        load_network(own_checkpoint, label_set="wider")
    with pytest.raises(CheckpointError, match="14 attributes, got peta with 35"):
        load_network(own_checkpoint, label_set="peta")
    with pytest.raises(LabelSetError, match=r"own\.safetensors .*label set.*--sentences"):
        load_network(own_checkpoint, sentences=True)


def test_a_checkpoint_with_a_name_alone_still_loads(tmp_path: Path) -> None:
    labels = load_label_set("pa100k", sentences=True)
    made = tmp_path / "made.safetensors"
    save_checkpoint(made, random_model(tiny_architecture(len(labels)), seed=2), labels, dtype=torch.float16)
    old = with_metadata(made, tmp_path / "old.safetensors", label_set="pa100k", phrases=list(labels.phrases))
    assert load_checkpoint(old).label_set is None
    assert load_network(old, sentences=True).label_set == labels
    with pytest.raises(CheckpointError, match=r"phrase '.*--sentences"):
        load_network(old)
    unknown = with_metadata(made, tmp_path / "unknown.safetensors", label_set="my-shop")
    with pytest.raises(LabelSetError, match=r"'my-shop'.*--label-set.*pa100k"):
        load_network(unknown)
    nameless = with_metadata(made, tmp_path / "nameless.safetensors", label_set=None)
    with pytest.raises(LabelSetError, match=r"no label set; pass --label-set"):
        load_network(nameless)
    assert load_network(data_dir("models") / "demo" / "demo.safetensors").label_set == load_label_set("pa100k")


def test_a_damaged_label_set_is_one_line(own_checkpoint: Path, own_labels: LabelSet, tmp_path: Path) -> None:
    values = own_labels.to_dict()
    values["attributes"][1]["phrase"] = 7
    damaged = with_metadata(own_checkpoint, tmp_path / "damaged.safetensors", label_set=values)
    with pytest.raises(LabelSetError, match=r"damaged\.safetensors: attributes\[1\]\.phrase must be text .*got 7"):
        load_network(damaged)


def test_the_checkpoint_of_a_bundle(bundle_dir: Path, checkpoint_file: Path, own_checkpoint: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    loaded = load_network(checkpoint_file, bundle=bundle, keep_text_tower=True)
    assert loaded.sha256 == bundle.manifest["checkpoint"]["sha256"]
    assert hasattr(loaded.network.clip_model, "transformer")
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors with sha256 .*got own\.safetensors"):
        load_network(own_checkpoint, bundle=bundle)


def test_parity_uses_the_weights_that_were_exported(checkpoint_file: Path, bundle_dir: Path, tmp_path: Path) -> None:
    trained = dict(load_checkpoint(checkpoint_file).state_dict)
    average = {name: value * 2 if value.is_floating_point() else value for name, value in trained.items()}
    path = tmp_path / "both.safetensors"
    both = {f"model.{name}": value for name, value in trained.items()}
    both |= {f"model_ema.{name}": value for name, value in average.items()}
    with safetensors.safe_open(checkpoint_file, framework="pt") as file:
        safetensors.torch.save_file(both, path, metadata=file.metadata())
    loaded = load_network(path, weights="model_ema")
    assert torch.equal(loaded.network.decoder.fc.weight, average["decoder.fc.weight"])
    exported = {"file": path.name, "sha256": loaded.sha256, "weights": loaded.weights}
    opened = Bundle.open(bundle_dir)
    bundle = dataclasses.replace(opened, manifest={**opened.manifest, "checkpoint": exported})
    again = load_network(path, bundle=bundle)
    assert torch.equal(again.network.decoder.fc.weight, average["decoder.fc.weight"])
    assert torch.equal(load_network(path).network.decoder.fc.weight, trained["decoder.fc.weight"])


def test_without_torch_the_error_names_the_extra(own_checkpoint: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from seqpar_deploy.errors import BackendUnavailableError\n"
        "from seqpar_deploy.modeling.load import load_network\n"
        f"try: load_network({str(own_checkpoint)!r})\n"
        "except BackendUnavailableError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert "torch" in done.stdout
    assert "seqpar-deploy[export]" in done.stdout
