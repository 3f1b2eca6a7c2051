"""Faults of trimmed models, planted one at a time: the gate catches each, and names its width and its cause."""

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
from conftest import MadeOnce, tiny_architecture
from fakes.modules import ModuleBackend, OnDevice
from torch import Tensor, nn

from seqpar_deploy.backends.host import HostState
from seqpar_deploy.backends.pooled import wrong_pooled
from seqpar_deploy.backends.verification import difference_from_golden
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import ParityError
from seqpar_deploy.exporting.checkpoint_reference import trimmed_columns
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import Recipe, load_recipe
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.modeling.sequencepar import ImageTower, SequencePAR
from seqpar_deploy.parity import reference as reference_module
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import reference_from_golden
from seqpar_deploy.parity.report import ParityReport
from seqpar_deploy.preprocess import Crop, CropBatch, Preprocessing, Trimming, default_columns
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow

PATCH, GRID, WIDTHS = 4, 8, (4, 6, 8)


@pytest.fixture(scope="session")
def trimmed_checkpoint(made_once: MadeOnce, label_set: LabelSet) -> Path:
    """A tiny random checkpoint of crops that are trimmed to 4, 6 or 8 of 8 patch columns."""

    def make(folder: Path) -> None:
        folder.mkdir()
        whole = tiny_architecture(len(label_set))
        architecture = dataclasses.replace(whole, vision={**whole.vision, "patch_size": PATCH}, columns=WIDTHS)
        save_checkpoint(
            folder / "trimmed.safetensors", random_model(architecture, seed=3), label_set, dtype=torch.float32
        )

    return made_once("trimmed-checkpoint", make) / "trimmed.safetensors"


@pytest.fixture(scope="session")
def trimmed_dir(made_once: MadeOnce, trimmed_checkpoint: Path) -> Path:
    """Its bundle. Copy it before changing it."""
    return made_once("trimmed", lambda out: export_bundle(trimmed_checkpoint, load_recipe("fp32"), out))


@pytest.fixture
def bundle(trimmed_dir: Path) -> Bundle:
    return Bundle.open(trimmed_dir, verify=False)


@pytest.fixture
def model(trimmed_checkpoint: Path, label_set: LabelSet) -> SequencePAR:
    return build_model(load_checkpoint(trimmed_checkpoint), label_set)


@pytest.fixture
def backend(bundle: Bundle, model: SequencePAR) -> ModuleBackend:
    """Sound, until a test plants something."""
    return ModuleBackend(bundle, model)


def check(bundle: Bundle, backend: ModuleBackend) -> ParityReport:
    tolerances = dataclasses.replace(load_recipe("fp32").parity, largest_batch=4, beams=1)
    return check_parity(backend, reference_from_golden(bundle), tolerances, bundle=bundle)


def breach(bundle: Bundle, backend: ModuleBackend) -> str:
    """The first breach, which is to point at the fault."""
    return check(bundle, backend).breaches[0]


def test_without_a_fault_it_passes_at_every_width(bundle: Bundle, backend: ModuleBackend) -> None:
    assert (bundle.padding, bundle.columns) == ("trimmed", WIDTHS)
    reference = reference_from_golden(bundle)
    assert {width: reference.widths.count(width) >= 3 for width in WIDTHS} == dict.fromkeys(WIDTHS, True)
    report = check(bundle, backend)
    assert report.breaches == []
    assert {check.name: check.status for check in report.checks}["pooled"] == "passed"
    assert report.pooled_max is not None
    assert report.pooled_max < 1e-5
    assert reference.pooled is not None
    assert len(np.unique(reference.pooled.round(3), axis=0)) > report.crops / 2  # neighbours differ


@pytest.mark.parametrize("grid", [4, 8, 16])
def test_parity_crops_cover_all_widths_of_the_usual_grids(grid: int) -> None:
    from seqpar_deploy.parity.crops import adversarial_crops

    trimming = Trimming(columns=default_columns(grid), patch_size=224 // grid)
    found = [trimmed_columns(crop.image, trimming, Preprocessing()) for crop in adversarial_crops()]
    assert all(found.count(width) >= 3 for width in trimming.columns)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_references_widths_are_those_of_the_trimming(interpolation: str, rng: np.random.Generator) -> None:
    """They are found by other means: the content is marked, and really resized."""
    how = Preprocessing(interpolation=interpolation, fill=(9, 9, 9))  # type: ignore[arg-type]
    trimming = Trimming(columns=tuple(range(2, 17, 2)), patch_size=14)
    found = set()
    for _ in range(200):
        height = int(rng.integers(1, 400))
        crop = np.zeros((height, int(rng.integers(1, height + 2)), 3), np.uint8)
        found.add(trimmed_columns(crop, trimming, how))
        assert trimmed_columns(crop, trimming, how) == trimming.columns_of(crop, how)
    assert len(found) > 4
    assert trimmed_columns(crop, trimming, dataclasses.replace(how, pad="none")) == 16


def misplaced(tower: Any, columns: int, by: int) -> Callable[[Tensor], Tensor]:
    """`_placed` with the positions of other columns, at one width."""
    right = tower._placed

    def placed(patches: Tensor) -> Tensor:
        if patches.shape[3] != columns:
            return right(patches)
        whole = tower.positional_embedding
        grid = whole[1:].unflatten(0, (GRID, GRID)).roll(-by, 1)
        tower.positional_embedding = nn.Parameter(torch.cat([whole[:1], grid.flatten(0, 1)]), requires_grad=False)
        try:
            return right(patches)
        finally:
            tower.positional_embedding = whole

    return placed


@pytest.mark.parametrize(
    ("columns", "by", "named"),
    [(4, 1, "one column too far right"), (6, -1, "one column too far left"), (4, -2, "the left edge")],
)
def test_positions_of_other_columns_at_one_width(
    bundle: Bundle, backend: ModuleBackend, columns: int, by: int, named: str
) -> None:
    tower: Any = backend.encoder.clip_visual  # type: ignore[attr-defined]
    tower._placed = misplaced(tower, columns, by)
    found = breach(bundle, backend)
    others = " or ".join(str(width) for width in WIDTHS if width != columns)
    assert found.startswith("first step: ")
    assert f"for all crops of {columns} patch columns, and for none of {others}" in found
    assert f"middle {columns} columns, got " in found
    assert named in found


def test_positions_that_network_and_graph_get_wrong_alike(
    trimmed_checkpoint: Path, fp32_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, eager network and graph share the code; the reference does not run it."""

    def at_the_left_edge(tower: Any, patches: Tensor) -> Tensor:
        positions = tower.positional_embedding
        placed = patches.flatten(2).transpose(1, 2)
        placed = placed + positions[1:].unflatten(0, (GRID, GRID)).narrow(1, 0, patches.shape[3]).flatten(0, 1)
        first = (tower.class_embedding + positions[0]).expand(patches.shape[0], 1, -1)
        embedded: Tensor = tower.ln_pre(torch.cat([first, placed], dim=1))
        return embedded

    monkeypatch.setattr(ImageTower, "_placed", at_the_left_edge)
    with pytest.raises(
        ParityError, match=r"first step: .* of 4 or 6 patch columns.*middle \d columns, got .*no bundle"
    ):
        export_bundle(trimmed_checkpoint, fp32_recipe, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_too_wide(bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Trimming.columns_of
    monkeypatch.setattr(Trimming, "columns_of", lambda *arguments: {4: 6}.get(right(*arguments), 8))
    found = breach(bundle, backend)
    assert found.startswith("trimming: crop ")
    assert re.search(r"must keep [46] patch columns.* got [68]$", found)


def test_a_batch_of_two_widths(bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def regardless(columns: list[int], size: int) -> list[list[int]]:
        return [list(range(start, min(start + size, len(columns)))) for start in range(0, len(columns), size)]

    monkeypatch.setattr(reference_module, "batches_by_columns", regardless)
    found = breach(bundle, backend)
    assert re.match(r"trimming: a batch .*one width, got crop \d+ of \d patch columns, crop \d+ of \d patch", found)


def test_columns_that_are_cut_on_one_side(
    bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trim(self: Trimming, prepared: CropBatch, columns: int) -> CropBatch:
        return prepared[..., : columns * self.patch_size, :]

    monkeypatch.setattr(Trimming, "trim", trim)
    found = breach(bundle, backend)
    assert found.startswith("first step: ")
    assert "for all crops, " not in found  # those of 8 columns are right, and so is black on black


def test_crops_of_one_width_encoded_as_another(bundle: Bundle, backend: ModuleBackend) -> None:
    right = backend.encode

    def encode(crops: Crop) -> HostState:
        return right(crops[:, :, PATCH:-PATCH] if crops.shape[2] == 6 * PATCH else crops)

    backend.encode = encode  # type: ignore[method-assign]
    found = breach(bundle, backend)
    assert found.startswith("first step: ")
    assert "for all crops of 6 patch columns, and for none of 4 or 8" in found


@pytest.mark.parametrize(("columns", "rows", "check_name"), [(6, 3, "grouping"), (4, 4, "batches of 4")])
def test_another_persons_row_at_one_width(
    bundle: Bundle, backend: ModuleBackend, columns: int, rows: int, check_name: str
) -> None:
    right = backend.encode

    def encode(crops: Crop) -> HostState:
        state = right(crops)
        if crops.shape[1:3] == (GRID * PATCH, columns * PATCH) and len(crops) == rows:
            state.cross_kv[:, 1:] = state.cross_kv[:, :1]
        return state

    backend.encode = encode  # type: ignore[method-assign]
    breaches = [line for line in check(bundle, backend).breaches if line.startswith(check_name)]
    assert len(breaches) == 1
    assert breaches[0].endswith(f"(at {columns} patch columns)")


def exchanged(pooled: Tensor) -> Tensor:
    return pooled.roll(1, 0)


def wrong_mean(pooled: Tensor) -> Tensor:
    """As of a mean that leaves one image token out of its count."""
    d, tokens = pooled.shape[1] // 3, 1 + GRID * 4
    return torch.cat([pooled[:, :d] * tokens / (tokens - 1), pooled[:, d:]], dim=1)


@pytest.mark.parametrize("columns", [4, 8])
@pytest.mark.parametrize(
    ("wrong", "named"), [(exchanged, "pooled features of row "), (wrong_mean, "the mean of the image tokens")]
)
def test_pooled_features_of_another(
    bundle: Bundle, backend: ModuleBackend, wrong: Callable[[Tensor], Tensor], named: str, columns: int
) -> None:
    """No token and no log-probability tells."""
    right = backend.encoder

    def encode(crops: Tensor) -> tuple[Tensor, Tensor]:
        cross_kv, pooled = right(crops)
        return cross_kv, wrong(pooled) if crops.shape[2] == columns * PATCH else pooled

    backend.encoder = encode
    (found,) = check(bundle, backend).breaches
    assert found.startswith("pooled: crop ")
    assert f"(at {columns} patch columns)" in found
    assert named in found


def test_pooled_features_that_stay_behind_when_rows_move(
    bundle: Bundle, backend: ModuleBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = HostState.reorder

    def reorder(state: HostState, rows: Any) -> None:
        pooled = state.pooled
        right(state, rows)
        state.pooled = None if pooled is None else np.resize(pooled, (len(rows), pooled.shape[1]))

    monkeypatch.setattr(HostState, "reorder", reorder)
    (found,) = check(bundle, backend).breaches
    assert found.startswith("pooled: crop ")
    assert "after reordering" in found


def test_a_neighbour_is_named_within_a_wide_tolerance_too(rng: np.random.Generator) -> None:
    expected = rng.normal(10, 0.01, (3, 6)).astype(np.float32)  # crops that differ by a thousandth
    assert wrong_pooled(expected, expected + np.float32(1e-4), 0.1) is None
    row, line = wrong_pooled(expected, expected[[0, 2, 1]], 0.1) or (0, "")
    assert (row, "of row 2" in line) == (1, True)
    row, line = wrong_pooled(expected, expected * np.nan, 0.1) or (9, "")
    assert (row, "got inf" in line) == (0, True)
    assert wrong_pooled(expected, expected[:, :3], 0.1) is not None


@pytest.mark.parametrize("columns", [[4, 8], [2, 4, 6, 8], None])
def test_other_widths_in_the_manifest(
    trimmed_dir: Path, model: SequencePAR, columns: list[int] | None, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(trimmed_dir, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest |= {"columns": columns, "padding": "trimmed" if columns else "full"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    changed = Bundle.open(copy)
    found = breach(changed, OnDevice(changed, model))
    assert found.startswith("trimming: columns must be [4, 6, 8] as in the checkpoint, got ")
    line = difference_from_golden(changed, OnDevice(changed, model))
    assert line is not None
    assert line.startswith("columns of the manifest must be [4, 6, 8]")


def test_the_check_on_a_gpu_runs_at_every_width(bundle: Bundle, model: SequencePAR) -> None:
    backend = OnDevice(bundle, model)
    right, widths = backend.encoder, set()

    def encode(crops: Tensor) -> tuple[Tensor, Tensor]:
        widths.add(crops.shape[2] // PATCH)
        return right(crops)

    backend.encoder = encode
    assert difference_from_golden(bundle, backend) is None
    assert widths == set(WIDTHS)


@pytest.mark.parametrize(("columns", "part"), [(6, 0), (4, 1)])
def test_the_check_on_a_gpu_finds_rows_of_another(bundle: Bundle, model: SequencePAR, columns: int, part: int) -> None:
    """Of `cross_kv` or of the pooled features, in batches of one width."""
    backend = OnDevice(bundle, model)
    right = backend.encoder

    def encode(crops: Tensor) -> tuple[Tensor, Tensor]:
        outputs = list(right(crops))
        if crops.shape[2] == columns * PATCH:
            outputs[part] = outputs[part].roll(1, 1 - part)
        return outputs[0], outputs[1]

    backend.encoder = encode
    found = difference_from_golden(bundle, backend)
    assert found is not None
    crop = int(found.split("golden crop ")[1].split(",")[0].split(":")[0])
    assert reference_from_golden(bundle).widths[crop] == columns
    assert ("pooled features of row" in found) == (part == 1)
