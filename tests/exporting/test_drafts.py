"""The draft head that an export fits on the bundle's own answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from seqpar_deploy.bundle import DRAFT, Bundle
from seqpar_deploy.decoding.draft_fitting import Answers
from seqpar_deploy.decoding.drafts import load_head
from seqpar_deploy.exporting import drafts
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import Drafts, Recipe
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import sample_crops

pytestmark = pytest.mark.slow


def test_a_bundle_has_a_head_that_its_manifest_lists(
    checkpoint_file: Path, fp32_recipe: Recipe, crops: list[Crop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "_LEAST_CROPS", 40)
    recipe = dataclasses.replace(fp32_recipe, drafts=Drafts(crops=50, seconds=0))
    made = export_bundle(checkpoint_file, recipe, tmp_path / "bundle")
    bundle = Bundle.open(made.path)
    head = load_head(bundle)
    assert head is not None
    assert DRAFT in bundle.manifest["files"]
    found = bundle.manifest["drafts"]
    assert 40 <= found["crops"] <= 50
    assert found["crops"] == head.crops
    assert 1 <= found["calls"] <= found["greedy_calls"]
    assert found["kind"] == ("constant" if head.is_constant else "attributes")
    assert len(head.draft(np.zeros((2, len(head.weights)), np.float32))) == 2


def test_folds_hold_out_people(
    checkpoint_file: Path, fp32_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[Answers] = []
    monkeypatch.setattr(drafts, "_LEAST_CROPS", 60)
    monkeypatch.setattr(drafts, "fit_head", fitted.append)
    export_bundle(checkpoint_file, dataclasses.replace(fp32_recipe, drafts=Drafts(crops=60, seconds=0)), tmp_path / "b")
    places = fitted[0].places
    assert sorted(places) == list(range(60))
    people = len(sample_crops())
    first, second = places.index(0), places.index(1)
    assert all(place >= people for place in places[first + 1 : second])  # variations of the first person
    assert second > first + 1
    assert places[-10:] == sorted(places[-10:])  # rendered people, each once, come last


def test_a_recipe_without_drafts_writes_none(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    assert not (bundle.path / DRAFT).exists()
    assert load_head(bundle) is None
