"""checkpoint + label set + recipe -> bundle, verified against the checkpoint before it comes into being."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import seqpar_deploy
from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import DECODER_STEP, ENCODER, GOLDEN, MODEL_CARD, Bundle, new_bundle_dir, write_manifest
from seqpar_deploy.exporting.checkpoint_reference import checkpoint_reference
from seqpar_deploy.exporting.graphs import (
    DecoderStepGraph,
    EncoderGraph,
    GraphSpec,
    export_graph,
    graph_specs,
    uint8_to_images,
)
from seqpar_deploy.exporting.int8 import write_int8_graphs
from seqpar_deploy.exporting.model_card import model_card
from seqpar_deploy.exporting.overflow import require_no_overflow
from seqpar_deploy.exporting.precision import CACHE_DTYPE, convert, token_table_in
from seqpar_deploy.exporting.recipe import Int8, Recipe
from seqpar_deploy.modeling.architecture import Architecture
from seqpar_deploy.modeling.checkpoint import Checkpoint, build_model
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.parity.crops import ParityCrop, calibration_crops, parity_crops
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import BEAM, Reference, golden_arrays
from seqpar_deploy.parity.tolerances import ParityTolerances
from seqpar_deploy.preprocess import prepare_batch
from seqpar_deploy.progress import Progress, silent
from seqpar_deploy.vocab import SPECIAL_TOKENS, LabelSet

_GOLDEN_CROPS = {"real": 4, "rendered": 3, "adversarial": 100}


def export_bundle(
    checkpoint: Checkpoint,
    label_set: LabelSet,
    recipe: Recipe,
    out: str | Path,
    *,
    encoder: str | None = None,
    decoder_heads: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Make a bundle at `out`, or raise and leave nothing behind.

    `encoder` and `decoder_heads` are for checkpoints that do not tell them, see `architecture_from_shapes`.

    Raises CheckpointError, BundleError (`out` exists), ExportError, ParityError.
    """
    with new_bundle_dir(Path(out), overwrite=overwrite) as folder:
        with progress("loading the checkpoint"):
            model = build_model(checkpoint, label_set, encoder=encoder, decoder_heads=decoder_heads)
            architecture = model.architecture
            token_table = fold_text_tower(model, label_set)
        with progress("running the checkpoint on the parity crops") as report_progress:
            people = parity_crops(real=recipe.parity.crops, rendered=recipe.parity.rendered)
            golden = _golden_rows(people)
            beams = golden[: recipe.parity.beams] if len(label_set) >= BEAM.width else ()
            reference = checkpoint_reference(
                model, token_table, label_set, people, beams=beams, progress=report_progress
            )
            np.savez_compressed(folder / GOLDEN, **golden_arrays(reference.subset(golden)))  # type: ignore[arg-type]
        specs = graph_specs(model, CACHE_DTYPE[recipe.precision])
        convert(model, recipe.precision)
        with progress("exporting the encoder"):
            encoder_graph = EncoderGraph(model, uint8_to_images(label_set.preprocessing))
            export_graph(encoder_graph, specs["encoder"], folder / ENCODER, opset=recipe.opset)
        with progress("exporting the decoder step"):
            step_graph = DecoderStepGraph(model, token_table_in(token_table, recipe.precision))
            export_graph(step_graph, specs["decoder_step"], folder / DECODER_STEP, opset=recipe.opset)
        del model, encoder_graph, step_graph  # the runtime is about to load its own copy of the weights

        manifest = _manifest(checkpoint, label_set, recipe, architecture, specs)
        with progress("comparing the bundle with the checkpoint") as report_progress:
            write_manifest(folder, manifest)
            bundle = Bundle.open(folder, verify=False)
            with closing(open_backend(bundle, recipe.parity.backend)) as backend:
                report = check_parity(backend, reference, recipe.parity, bundle=bundle, progress=report_progress)
        report.require("nothing was written")
        manifest["parity"] = report.to_dict()
        if recipe.precision == "fp16":
            with progress("looking for values beyond FP16"):
                require_no_overflow(bundle, reference)
        if recipe.int8:
            manifest["int8"] = _add_int8(bundle, reference, recipe.int8, recipe.parity, manifest, progress)
        (folder / MODEL_CARD).write_text(model_card(manifest, label_set), encoding="utf-8")
        write_manifest(folder, manifest)
    return Bundle.open(out, verify=False)


def _add_int8(
    bundle: Bundle,
    reference: Reference,
    int8: Int8,
    tolerances: ParityTolerances,
    manifest: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Write the 8-bit graphs; what they cost in accuracy, for the manifest. No gate: they differ."""
    with progress("making the 8-bit graphs") as report_progress:
        size = bundle.dimensions.image_size
        images = calibration_crops(int8.calibration_crops)
        crops = prepare_batch(images, image_size=size, preprocessing=bundle.preprocessing)
        write_int8_graphs(bundle.path, crops, report_progress)
        write_manifest(bundle.path, manifest)
    with progress("comparing the 8-bit graphs with the checkpoint") as report_progress:
        opened = Bundle.open(bundle.path, verify=False)
        with closing(open_backend(opened, tolerances.backend, compute_precision="int8")) as backend:
            found = check_parity(backend, reference, tolerances, progress=report_progress)
    kept = ("backend", "crops", "identical", "identical_sets", "log_prob_median", "log_prob_p99", "log_prob_max")
    return {name: getattr(found, name) for name in kept}


def fold_text_tower(model: SequencePAR, label_set: LabelSet) -> torch.Tensor:
    """The token table (V, d). The text tower, a quarter of the weights, is dropped: nothing needs it after this."""
    with torch.inference_mode():
        token_table = model.token_table(label_set.phrases)
    clip = model.clip_model
    del clip.transformer, clip.token_embedding, clip.positional_embedding, clip.ln_final, clip.text_projection
    return token_table.clone()


def _golden_rows(people: Sequence[ParityCrop]) -> list[int]:
    """Which crops travel with the bundle: a few of those it is held against here, and every difficult one."""
    rows: list[int] = []
    for kind, most in _GOLDEN_CROPS.items():
        rows += [row for row, person in enumerate(people) if person.kind == kind][:most]
    return rows


def _manifest(
    checkpoint: Checkpoint,
    label_set: LabelSet,
    recipe: Recipe,
    architecture: Architecture,
    specs: dict[str, GraphSpec],
) -> dict[str, Any]:
    return {
        "producer": {
            "seqpar_deploy": seqpar_deploy.__version__,
            "commit": _commit(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "opset": recipe.opset,
        },
        "checkpoint": {"file": checkpoint.path.name, "sha256": checkpoint.sha256},
        "precision": recipe.precision,
        "dimensions": {
            "image_size": architecture.image_size,
            "image_tokens": architecture.image_tokens,
            "layers": architecture.layers,
            "heads": architecture.heads,
            "head_size": architecture.head_size,
            "capacity": architecture.capacity,
            "vocabulary": architecture.vocabulary,
        },
        "special_tokens": SPECIAL_TOKENS,
        "batches": [dataclasses.asdict(batch) for batch in recipe.batches],
        "graphs": {name: dataclasses.asdict(spec) for name, spec in specs.items()},
        "recipe": recipe.to_dict(),
        "label_set": label_set.to_dict(),
    }


def _commit() -> str | None:
    """The commit of the checkout this package runs from; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
