"""A convolutional stem, which the demo model has and the published one has not, goes through checkpoint and export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import tiny_architecture

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.modeling.architecture import Architecture
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stem_checkpoint(label_set: LabelSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stem") / "stem.safetensors"
    model = random_model(dataclasses.replace(tiny_architecture(len(label_set)), stem=(8, 16)), seed=1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as training leaves it, not as it starts
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    save_checkpoint(path, model, label_set, dtype=torch.float16)
    return path


def test_the_checkpoint_says_that_it_has_a_stem(stem_checkpoint: Path, label_set: LabelSet) -> None:
    model = build_model(load_checkpoint(stem_checkpoint), label_set)
    assert model.architecture.stem == (8, 16)
    assert model.encode_image(torch.zeros(2, 3, 32, 32)).shape == (2, 17, 48)


def test_a_stem_that_is_no_patch_is_refused(label_set: LabelSet) -> None:
    values = dataclasses.replace(tiny_architecture(len(label_set)), stem=(8, 12, 16)).to_dict()
    with pytest.raises(CheckpointError, match=r"patch_size .*16.* 4 times, got 8"):
        Architecture.from_dict(values)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def stem_bundle(
    stem_checkpoint: Path, label_set: LabelSet, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Bundle:
    out = tmp_path_factory.mktemp("stem") / request.param
    return export_bundle(stem_checkpoint, dataclasses.replace(load_recipe(request.param), drafts=None), out)


def test_a_stem_is_exported(stem_bundle: Bundle, crops: list[Crop], cpu_backend: str) -> None:
    bundle = stem_bundle
    assert bundle.manifest["parity"]["identical"] + bundle.manifest["parity"]["ties"] == 46
    with Recognizer.from_bundle(bundle.path, backend=cpu_backend) as recognizer:  # type: ignore[arg-type]
        assert len({prediction.scores for prediction in recognizer.predict(crops)}) == len(crops)
