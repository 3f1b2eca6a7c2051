"""Thirteen faults, planted one at a time where such faults are made: the gate catches each and points at it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.modules import ModuleBackend, OnDevice
from torch import Tensor, nn

from seqpar_deploy import preprocess
from seqpar_deploy.backends.base import Backend
from seqpar_deploy.backends.host import HostState
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import ParityError
from seqpar_deploy.exporting import export
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.graphs import EncoderGraph, uint8_to_images
from seqpar_deploy.exporting.recipe import Recipe, load_recipe
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint
from seqpar_deploy.modeling.eager import normalise
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import reference_from_golden
from seqpar_deploy.parity.report import ParityReport
from seqpar_deploy.preprocess import Crop, Preprocessing
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


@pytest.fixture
def bundle(bundle_dir: Path) -> Bundle:
    return Bundle.open(bundle_dir, verify=False)


@pytest.fixture
def model(checkpoint_file: Path, label_set: LabelSet) -> SequencePAR:
    return build_model(load_checkpoint(checkpoint_file), label_set)


@pytest.fixture
def backend(bundle: Bundle, model: SequencePAR) -> ModuleBackend:
    """Sound, until a test plants something."""
    return ModuleBackend(bundle, model)


def check(bundle: Bundle, backend: Backend[Any], recipe: str = "fp32") -> ParityReport:
    tolerances = dataclasses.replace(load_recipe(recipe).parity, largest_batch=8, beams=2)
    return check_parity(backend, reference_from_golden(bundle), tolerances, bundle=bundle)


def breach(bundle: Bundle, backend: Backend[Any], recipe: str = "fp32") -> str:
    """The first breach, which is to point at the fault."""
    report = check(bundle, backend, recipe)
    with pytest.raises(ParityError):
        report.require("nothing was written")
    return report.breaches[0]


def test_without_a_fault_it_passes(bundle: Bundle, backend: ModuleBackend) -> None:
    report = check(bundle, backend)
    assert report.breaches == []
    sequences = {reference_from_golden(bundle).sequence(crop) for crop in range(report.crops)}
    assert len(sequences) > report.crops / 3  # what is compared is not always the same


def plant_in_prepare(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[Callable[..., Crop]], Callable[..., Crop]]
) -> None:
    monkeypatch.setattr(preprocess, "prepare", fault(preprocess.prepare))


def test_1_swapped_colour_channels(bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_in_prepare(monkeypatch, lambda right: lambda crop, **kwargs: right(crop[..., ::-1].copy(), **kwargs))
    assert "RGB, got BGR" in breach(bundle, backend)


def test_2_wrong_mean(bundle: Bundle, model: SequencePAR, backend: ModuleBackend) -> None:
    wrong = dataclasses.replace(bundle.preprocessing, mean=CLIP_MEAN)
    backend.encoder = EncoderGraph(model, uint8_to_images(wrong))
    found = breach(bundle, backend)
    assert found.startswith("first step: ")
    assert "all crops" in found
    assert "mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5), got mean of CLIP" in found


def test_2_wrong_mean_exported(
    checkpoint_file: Path, label_set: LabelSet, fp32_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong_images(preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
        wrong = dataclasses.replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        return lambda crops: normalise(crops, wrong)

    monkeypatch.setattr(export, "uint8_to_images", wrong_images)
    with pytest.raises(ParityError, match=r"got mean and std of \(0, 1\).*; no bundle was written"):
        export_bundle(checkpoint_file, fp32_recipe, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_3_bicubic_for_bilinear(bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(bundle.preprocessing, interpolation="bicubic")
    plant_in_prepare(
        monkeypatch, lambda right: lambda crop, image_size, **_: right(crop, image_size=image_size, preprocessing=wrong)
    )
    assert "bilinear, got bicubic" in breach(bundle, backend)


def test_4_no_antialiasing(bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def resized_by_torch(crop: Crop, *, image_size: int, preprocessing: Preprocessing) -> Crop:
        height, width = crop.shape[:2]
        left, top = (max(0, height - width) // 2, max(0, width - height) // 2)
        around = (left, max(height, width) - width - left, top, max(height, width) - height - top)
        padded = F.pad(torch.from_numpy(crop).permute(2, 0, 1).float(), around)
        resized = F.interpolate(padded[None], (image_size, image_size), mode="bilinear")
        return resized[0].permute(1, 2, 0).round().to(torch.uint8).numpy()

    plant_in_prepare(monkeypatch, lambda _: resized_by_torch)
    assert "antialiasing, got one without" in breach(bundle, backend)


def test_5_missing_pad(bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dataclasses.replace(bundle.preprocessing, pad="none")
    plant_in_prepare(
        monkeypatch, lambda right: lambda crop, image_size, **_: right(crop, image_size=image_size, preprocessing=wrong)
    )
    assert "square, got none" in breach(bundle, backend)


def test_6_off_by_one_position(bundle: Bundle, model: SequencePAR, backend: ModuleBackend) -> None:
    shift_positions(model, 1)  # row t for step t, wanted row t + 1
    assert breach(bundle, backend).endswith("positions are off by one, one too near")


def test_6_off_by_one_position_after_the_first_step(
    bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a runtime that counts `<bos>` twice."""
    right = backend.decoder_step
    backend.decoder_step = lambda tokens, position, *caches: right(tokens, position + (position > 0), *caches)
    found = breach(bundle, backend)
    assert found.startswith("cache: ")
    assert "from step 1 on" in found
    assert ": positions" in found


def shift_positions(model: SequencePAR, by: int) -> None:
    table = model.decoder.pos_emb.weight
    table.copy_(table.clone().roll(by, 0))


@pytest.mark.parametrize("recipe", ["fp32", "fp16"])  # whose tolerances alone would let it pass the probe
def test_7_mask_one_too_long(bundle: Bundle, model: SequencePAR, backend: ModuleBackend, recipe: str) -> None:
    # A position one further on makes the mask longer; the embeddings of positions are set back by as much.
    shift_positions(model, 1)
    decoder = backend.decoder_step.decoder  # type: ignore[attr-defined]  # the graph's own, with the model's weights
    right = decoder.forward
    decoder.forward = lambda tokens, embedded, cross_kv, self_kv, position: right(
        tokens, embedded, cross_kv, self_kv, position + 1
    )
    found = breach(bundle, backend, recipe)
    assert found.startswith("forgetting: ")
    assert "mask is too long" in found


@pytest.mark.parametrize("recipe", ["fp32", "fp16"])
def test_8_stale_cache_slot(bundle: Bundle, backend: ModuleBackend, recipe: str) -> None:
    """The cache writes into empty slots alone, so that what was forgotten stays."""
    right = backend.decoder_step

    def keeps_what_is_there(tokens: Tensor, position: Tensor, self_kv: Tensor, cross_kv: Tensor) -> tuple[Tensor, ...]:
        log_probs, next_token, self_kv_out = right(tokens, position, self_kv, cross_kv)
        return log_probs, next_token, torch.where(self_kv != 0, self_kv, self_kv_out)

    backend.decoder_step = keeps_what_is_there
    found = breach(bundle, backend, recipe)
    assert found.startswith("forgetting: ")
    assert "stale cache slot" in found


def test_9_cross_kv_of_the_neighbouring_row(bundle: Bundle, backend: ModuleBackend) -> None:
    right = backend.encoder

    def encode(crops: Tensor) -> tuple[Tensor, Tensor]:
        cross_kv, pooled = right(crops)
        return cross_kv[:, (torch.arange(len(crops)) - 1).clamp(min=0)], pooled

    backend.encoder = encode
    found = breach(bundle, backend)
    assert found.startswith("grouping: rows [1, 2] of a batch of 3 ")
    assert "row 1 reads the cross_kv of row 0" in found


class HalfLayerNorm(nn.LayerNorm):
    """As a unit computes it that squares FP16 numbers and keeps FP16 sums."""

    def forward(self, x: Tensor) -> Tensor:
        def half(values: Tensor) -> Tensor:
            return values.masked_fill(values.abs() > torch.finfo(torch.float16).max, torch.inf)

        mean, square = x.mean(-1, keepdim=True), half(half(x * x).mean(-1, keepdim=True))
        variance = square - half(mean * mean)
        return (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias


def test_10_fp16_overflow_in_one_layer_norm(bundle: Bundle, backend: ModuleBackend) -> None:
    layer = backend.decoder_step.decoder.decoder_layers()[1].pwff  # type: ignore[attr-defined]
    layer.fc2.bias += 300  # which a layer normalisation takes away again
    assert check(bundle, backend).breaches == []
    layer.layer_norm.__class__ = HalfLayerNorm
    found = breach(bundle, backend)
    assert found.startswith("finite: infinity or NaN first in log_probs, the decoder step's output, of crop ")
    assert "at step 0: an overflow" in found


def test_10_fp16_overflow_in_the_encoder(bundle: Bundle, model: SequencePAR, backend: ModuleBackend) -> None:
    block = model.clip_model.visual.transformer.resblocks[0]
    block.mlp.c_proj.bias += 300
    block_after = backend.encoder.clip_visual.transformer.resblocks[1]  # type: ignore[attr-defined]
    block_after.ln_1.__class__ = HalfLayerNorm
    assert breach(bundle, backend).startswith(
        "finite: infinity or NaN first in cross_kv, the encoder's output, of crop "
    )


def test_11_two_attributes_swapped_in_the_manifest(bundle_dir: Path, backend: ModuleBackend, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    attributes = manifest["label_set"]["attributes"]
    attributes[4], attributes[9] = attributes[9], attributes[4]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    names = [repr(attribute["name"]) for attribute in (attributes[4], attributes[9])]
    assert f"{names[0]} and {names[1]} are exchanged" in breach(Bundle.open(copy), backend)


def test_11_two_attributes_swapped_in_the_graph(bundle: Bundle, model: SequencePAR, backend: ModuleBackend) -> None:
    weight = model.decoder.fc.weight
    weight[[7, 12]] = weight[[12, 7]]
    names = [repr(bundle.label_set.attributes[token - 3].name) for token in (7, 12)]
    assert f"{names[0]} and {names[1]} are exchanged in the decoder's output" in breach(bundle, backend)


def test_12_a_profile_that_corrupts_the_last_slot(bundle: Bundle, backend: ModuleBackend) -> None:
    right = backend.encode

    def encode(crops: Crop) -> HostState:
        state = right(crops)
        if len(crops) == 8:
            state.cross_kv[:, -1] = np.roll(state.cross_kv[:, -1], 1, axis=-1)
        return state

    backend.encode = encode  # type: ignore[method-assign]
    report = check(bundle, backend)
    assert [check.name for check in report.checks if check.status == "failed"] == ["batches of 8"]
    assert report.breaches[0].startswith("batches of 8: slot 7, the last, is wrong in batches of 8, with crop ")


@pytest.mark.parametrize(("axis", "unit"), [(0, "row"), (1, "step")])
def test_13_a_device_returns_the_distributions_of_another(
    bundle: Bundle, model: SequencePAR, axis: int, unit: str
) -> None:
    """Its tokens are right, and so are the log-probabilities of a sequence that it is fed."""
    assert check(bundle, OnDevice(bundle, model, axis, 0)).breaches == []
    report = check(bundle, OnDevice(bundle, model, axis, 1))
    failed = [check.name for check in report.checks if check.status == "failed"]
    assert failed[0] == "probabilities", unit
    assert all(name.startswith("batches of ") for name in failed[1:])
    for part in (r"probabilities: crop \d+ \(.+\), greedy", "of '.+' must be 0", "got 0"):
        assert re.search(part, report.breaches[0])
