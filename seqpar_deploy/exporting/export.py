"""Export a checkpoint, with a label set and a recipe, as a bundle. If a step fails, all its files are removed.

 1. make a hidden folder beside OUT
 2. load the checkpoint into the network (FP32), compute the token table, drop the text tower, redefine it as trimmed
    on request
 3. run the network on the parity crops: the reference
 4. write golden.npz: the reference on a few of the crops
 5. convert the network to the recipe's precision, release the FP32 one
 6. write encoder.onnx and decoder_step.onnx, release the network
 7. hash the files
 8. compare the graphs with the reference: the parity gate
 9. FP16: search every tensor for values beyond FP16's range
10. int8: write the 8-bit graphs, hash them, measure their difference to the reference
11. fit the draft head on the graphs' answers: draft.npz
12. write model_card.md, and last manifest.json, which lists all files
13. rename the folder to OUT
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import seqpar_deploy
from seqpar_deploy.backends import open_backend
from seqpar_deploy.backends.withheld import withheld_tokens, without_withheld
from seqpar_deploy.bundle import (
    DECODER_STEP,
    DRAFT,
    ENCODER,
    FORMAT,
    GOLDEN,
    HOST_DECODER_STEP,
    INT8_DECODER_STEP,
    INT8_ENCODER,
    INT8_HOST_DECODER_STEP,
    MODEL_CARD,
    WITHHOLDING,
    Bundle,
    Dimensions,
    Precision,
    file_entries,
    new_bundle_dir,
    write_manifest,
)
from seqpar_deploy.errors import BundleError
from seqpar_deploy.exporting.checkpoint_reference import checkpoint_reference
from seqpar_deploy.exporting.drafts import write_draft_head
from seqpar_deploy.exporting.graphs import (
    DecoderStepGraph,
    EncoderGraph,
    export_graph,
    graph_specs,
    uint8_to_images,
)
from seqpar_deploy.exporting.host_step import require_same_steps, write_host_step
from seqpar_deploy.exporting.int8 import write_int8_graphs
from seqpar_deploy.exporting.model_card import model_card
from seqpar_deploy.exporting.overflow import require_no_overflow
from seqpar_deploy.exporting.precision import CACHE_DTYPE, converted, token_table_in
from seqpar_deploy.exporting.recipe import Int8, Recipe
from seqpar_deploy.files import check_space
from seqpar_deploy.modeling.load import LoadedNetwork, load_network, redefined_as_trimmed
from seqpar_deploy.onnx_file import external_data_locations
from seqpar_deploy.parity.crops import ParityCrop, calibration_crops, parity_crops
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.probes import PROBED
from seqpar_deploy.parity.reference import BEAM, Reference, first_of_each_width, golden_arrays
from seqpar_deploy.parity.report import ParityReport
from seqpar_deploy.preprocess import columns_read, prepare
from seqpar_deploy.progress import Progress, silent
from seqpar_deploy.vocab import SPECIAL_TOKENS, LabelSet

_GRAPHS = (ENCODER, DECODER_STEP, HOST_DECODER_STEP)
_GOLDEN_CROPS = {"real": 4, "rendered": 3, "adversarial": 100}


def export_bundle(
    checkpoint: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    label_set: LabelSet | str | Path | None = None,
    sentences: bool = False,
    encoder: str | None = None,
    decoder_heads: int | None = None,
    weights: str | None = None,
    trim: bool = False,
    without: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Export a checkpoint as a bundle, and check that the bundle reproduces it.

    If a check fails, an error is raised and no bundle is written.

    Args:
        checkpoint: A published `.pth`, or a `.safetensors`.
        recipe: Precision, opset, batch profiles and parity tolerances, see `load_recipe`.
        out: The bundle's folder.
        label_set: The label set the checkpoint was trained on: a `LabelSet`, a name (`peta`) or the path of a TOML
            file. Default: the one in the checkpoint.
        sentences: Use the label set's full sentences as phrases, for a checkpoint that was trained on those.
            Default: False.
        encoder: The open_clip model name, if the encoder is not an OpenAI CLIP ViT. Default: derived from the weights.
        decoder_heads: Decoder heads, if they do not have 64 channels each. Default: derived from the weights.
        weights: Set of weights to export, for example "model_ema", if the file has several. Default: the trained one.
        trim: Redefine a checkpoint of untrimmed crops as one that reads crops without most of their padding, which is
            faster and may change its accuracy. The parity gate then compares with the trimmed checkpoint. Default:
            False, crops are read as in the checkpoint's training.
        without: Names or patterns of attributes that predictions, golden data and card do not show. Default: none.
        overwrite: Replace a bundle at `out`. Default: False.
        progress: Receives the progress of each stage. Default: none is reported.

    Returns:
        The opened bundle.

    Raises:
        CheckpointError: The checkpoint cannot be read, does not match its label set, or cannot be trimmed.
        LabelSetError: The label set cannot be found or is not in the checkpoint, or `without` matches none or all.
        BundleError: `out` exists, or cannot be written.
        ExportError: An exported graph has unexpected inputs, outputs or operators.
        ParityError: The graphs do not reproduce the checkpoint, or overflow FP16.

    Examples:
        >>> from seqpar_deploy.exporting.export import export_bundle
        >>> from seqpar_deploy.exporting.recipe import load_recipe
        >>> bundle = export_bundle("f1_best.pth", load_recipe("fp16"), "bundles/peta-fp16", label_set="peta")
    """
    with new_bundle_dir(Path(out), overwrite=overwrite) as folder:
        with progress("loading the checkpoint"):
            loaded = load_network(
                checkpoint,
                label_set=label_set,
                sentences=sentences,
                encoder=encoder,
                decoder_heads=decoder_heads,
                weights=weights,
            )
        if trim:
            loaded = redefined_as_trimmed(loaded)
        withheld = _withheld(loaded.label_set, without)
        check_space(Path(out), _expected_size(loaded, recipe), error=BundleError)
        reference = _run_reference(loaded, recipe, progress)
        _write_golden(folder, reference, withheld_tokens(loaded.label_set, withheld))
        loaded = _in_precision(loaded, recipe.precision)  # releases the FP32 one, gigabytes for ViT-L/14
        manifest = _manifest(loaded, recipe, withheld)
        manifest["graphs"] = _write_graphs(folder, loaded, recipe, progress)
        del loaded  # the runtime loads its own copy of the weights
        manifest["files"] = file_entries(folder, [GOLDEN, *_graph_files(folder, _GRAPHS)])
        bundle = Bundle.from_manifest(folder, manifest)
        manifest["parity"] = _check(bundle, reference, recipe, progress).to_dict()
        _add_what_the_recipe_asks(manifest, bundle, reference, recipe, progress)
        (folder / MODEL_CARD).write_text(model_card(manifest, bundle.shown), encoding="utf-8")
        manifest["files"] |= file_entries(folder, [MODEL_CARD])
        write_manifest(folder, manifest)
    return Bundle.open(out, verify=False)


def _expected_size(loaded: LoadedNetwork, recipe: Recipe) -> int:
    """Return the size of the bundle in bytes: nearly all of it is weights."""
    numbers = sum(weight.numel() for weight in loaded.network.parameters()) + loaded.token_table.numel()
    return numbers * ((2 if recipe.precision == "fp16" else 4) + (1 if recipe.int8 else 0))


def _run_reference(loaded: LoadedNetwork, recipe: Recipe, progress: Progress) -> Reference:
    people = parity_crops(real=recipe.parity.crops, rendered=recipe.parity.rendered)
    architecture, preprocessing = loaded.network.architecture, loaded.label_set.preprocessing
    widths = [columns_read(person.image, architecture.trimming, preprocessing) for person in people]
    kept = _golden_rows(people, widths)
    searched = first_of_each_width([widths[row] for row in kept], recipe.parity.beams)
    beams = [kept[place] for place in searched] if len(loaded.label_set) >= BEAM.width else []
    with progress("running the checkpoint on the parity crops") as on_progress:
        return checkpoint_reference(
            loaded.network, loaded.token_table, loaded.label_set, people, beams=beams, on_progress=on_progress
        )


def _withheld(label_set: LabelSet, without: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the attributes to withhold. Raises LabelSetError before any work."""
    names = label_set.matching(without)
    label_set.without(names)  # one must be left
    return names


def _write_golden(folder: Path, reference: Reference, withheld: Collection[int]) -> None:
    golden = reference.subset(_golden_rows(reference.people, reference.widths))
    np.savez_compressed(folder / GOLDEN, **without_withheld(golden_arrays(golden), withheld))  # type: ignore[arg-type]


def _golden_rows(people: Sequence[ParityCrop], widths: Sequence[int]) -> list[int]:
    """Return the crops for golden.npz: a few real and rendered ones, of each width too, and all adversarial ones."""
    rows: set[int] = set()
    for kind, most in _GOLDEN_CROPS.items():
        rows.update([row for row, person in enumerate(people) if person.kind == kind][:most])
    for width in set(widths):
        rows.update([row for row, own in enumerate(widths) if own == width][:PROBED])
    return sorted(rows)


def _in_precision(loaded: LoadedNetwork, precision: Precision) -> LoadedNetwork:
    network, token_table = converted(loaded.network, precision), token_table_in(loaded.token_table, precision)
    return dataclasses.replace(loaded, network=network, token_table=token_table)


def _write_graphs(folder: Path, loaded: LoadedNetwork, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Write both graphs. Returns their specs for the manifest."""
    specs = graph_specs(loaded.network, CACHE_DTYPE[recipe.precision])
    with progress("exporting the encoder"):
        encoder = EncoderGraph(loaded.network, uint8_to_images(loaded.label_set.preprocessing))
        export_graph(encoder, specs["encoder"], folder / ENCODER, opset=recipe.opset)
    with progress("exporting the decoder step"):
        step = DecoderStepGraph(loaded.network, loaded.token_table)
        export_graph(step, specs["decoder_step"], folder / DECODER_STEP, opset=recipe.opset)
        write_host_step(folder / DECODER_STEP, folder / HOST_DECODER_STEP)
    return {name: dataclasses.asdict(spec) for name, spec in specs.items()}


def _graph_files(folder: Path, graphs: Iterable[str]) -> list[str]:
    """Return the files of the graphs and of their external weights."""
    return [file for graph in graphs for file in (graph, *sorted(external_data_locations(folder / graph)))]


def _check(bundle: Bundle, reference: Reference, recipe: Recipe, progress: Progress) -> ParityReport:
    with (
        progress("comparing the bundle with the checkpoint") as on_progress,
        closing(open_backend(bundle, recipe.parity.backend)) as backend,
    ):
        report = check_parity(backend, reference, recipe.parity, bundle=bundle, on_progress=on_progress)
    report.require("no bundle was written")
    require_same_steps(bundle)
    if recipe.precision == "fp16":
        with progress("searching for values beyond FP16's range"):
            require_no_overflow(bundle, reference)
    return report.without_tokens() if bundle.withheld else report


def _add_what_the_recipe_asks(
    manifest: dict[str, Any], bundle: Bundle, reference: Reference, recipe: Recipe, progress: Progress
) -> None:
    """Write the 8-bit graphs and the draft head beside the graphs, and list them in the manifest."""
    folder = bundle.path
    if recipe.int8:
        _write_int8(folder, bundle, recipe.int8, progress)
        graphs = [INT8_ENCODER, INT8_DECODER_STEP, INT8_HOST_DECODER_STEP]
        manifest["files"] |= file_entries(folder, _graph_files(folder, graphs))
        manifest["int8"] = _measure_int8(Bundle.from_manifest(folder, manifest), reference, recipe, progress)
    if recipe.drafts and (drafts := write_draft_head(folder, bundle, recipe.drafts, recipe.parity.backend, progress)):
        manifest["drafts"] = drafts
        manifest["files"] |= file_entries(folder, [DRAFT])


def _write_int8(folder: Path, bundle: Bundle, int8: Int8, progress: Progress) -> None:
    with progress("writing the 8-bit graphs") as on_progress:
        images = calibration_crops(int8.calibration_crops)
        size, preprocessing, trimming = bundle.dimensions.image_size, bundle.preprocessing, bundle.trimming
        crops = [prepare(image, image_size=size, preprocessing=preprocessing) for image in images]
        if trimming:
            widths = [trimming.columns_of(image, preprocessing) for image in images]
            crops = [trimming.trim(crop, width) for crop, width in zip(crops, widths, strict=True)]
        write_int8_graphs(folder, crops, on_progress)


def _measure_int8(bundle: Bundle, reference: Reference, recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """Measure the difference of the 8-bit graphs to the checkpoint, for the manifest. It may not fail the export."""
    with (
        progress("comparing the 8-bit graphs with the checkpoint") as on_progress,
        closing(open_backend(bundle, recipe.parity.backend, compute_precision="int8")) as backend,
    ):
        found = check_parity(backend, reference, recipe.parity, on_progress=on_progress)
    kept = ("backend", "crops", "identical", "identical_sets", "log_prob_median", "log_prob_p99", "log_prob_max")
    return {name: getattr(found, name) for name in kept}


def _manifest(loaded: LoadedNetwork, recipe: Recipe, withheld: Sequence[str]) -> dict[str, Any]:
    """Return the manifest's entries that are known before the graphs are written."""
    architecture = loaded.network.architecture
    chosen = {name: value for name, value in (("weights", loaded.weights), ("redefined", loaded.redefined)) if value}
    return {
        "format": WITHHOLDING if withheld else FORMAT,
        "producer": {
            "seqpar_deploy": seqpar_deploy.__version__,
            "commit": _commit(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "opset": recipe.opset,
        },
        "checkpoint": {"file": loaded.file, "sha256": loaded.sha256, **chosen},
        "precision": recipe.precision,
        "padding": "trimmed" if architecture.columns else "full",
        "columns": list(architecture.columns) or None,
        "dimensions": {field.name: getattr(architecture, field.name) for field in dataclasses.fields(Dimensions)},
        "special_tokens": SPECIAL_TOKENS,
        "batches": [dataclasses.asdict(batch) for batch in recipe.batches],
        "recipe": recipe.to_dict(),
        "label_set": loaded.label_set.to_dict(),
        **({"withheld": list(withheld)} if withheld else {}),
    }


def _commit() -> str | None:
    """Return the commit of the checkout this package runs from, or None if it is installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
