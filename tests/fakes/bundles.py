"""A tiny bundle whose model reads trimmed crops of three widths."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from conftest import tiny_architecture

from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.resources import load_label_set

COLUMNS = (4, 6, 8)  # of 8 patch columns of 4 pixels


def export_trimmed(folder: Path) -> Path:
    """Export it in FP16 into a folder, and return the bundle's. The gate compares few crops."""
    label_set = load_label_set("pa100k")
    tiny = tiny_architecture(len(label_set))
    architecture = dataclasses.replace(tiny, vision={**tiny.vision, "patch_size": 4}, columns=COLUMNS)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, out = folder / "trimmed.safetensors", folder / "trimmed"
    save_checkpoint(checkpoint, random_model(architecture, seed=3), label_set, dtype=torch.float32)
    recipe = load_recipe("fp16")
    few = dataclasses.replace(recipe.parity, crops=4, rendered=0, beams=0, largest_batch=4)
    export_bundle(checkpoint, dataclasses.replace(recipe, parity=few, drafts=None), out)
    return out
