"""Faults are planted in copies of tiny bundles; the explanation names the node they were planted in."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import ExportError, ParityError
from seqpar_deploy.exporting.explain.comparison import Comparison
from seqpar_deploy.exporting.explain.explain import NOISE, Explanation, compare_graphs, explain
from seqpar_deploy.exporting.explain.stages import StagedGraph, runs_on
from seqpar_deploy.exporting.overflow import require_no_overflow
from seqpar_deploy.machine import has_bf16
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint
from seqpar_deploy.modeling.eager import EagerBackend
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.parity.reference import Reference, reference_generations
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow

Edit = Callable[[onnx.GraphProto], None]
BLOCK = "clip_visual.transformer.resblocks.0"
IN, MIDDLE, OUT = "clip_visual.ln_pre/LayerNormalization", f"{BLOCK}/Add", f"{BLOCK}/Add_2"
MLP = "clip_visual.transformer.resblocks.1.mlp.c_fc/MatMul"
NORM = "clip_visual.transformer.resblocks.1.ln_1"


@dataclasses.dataclass(frozen=True)
class Said:
    """A checkpoint, and what it says of three crops."""

    model: SequencePAR
    token_table: torch.Tensor
    eager: EagerBackend
    reference: Reference


def said_by(model: SequencePAR, label_set: LabelSet, crops: list[Crop]) -> Said:
    with torch.inference_mode():
        token_table = model.token_table(label_set.phrases).clone()
    eager = EagerBackend(model, token_table, label_set.preprocessing)
    prepared = prepare_batch(crops[:3], image_size=32, preprocessing=label_set.preprocessing)
    return Said(model, token_table, eager, reference_generations(eager, prepared, max_steps=len(label_set)))


@pytest.fixture(scope="module")
def said(checkpoint_file: Path, label_set: LabelSet, crops: list[Crop]) -> Said:
    return said_by(build_model(load_checkpoint(checkpoint_file), label_set), label_set, crops)


def edited(source: Path, folder: Path, graph: str, *edits: Edit) -> Bundle:
    """A copy of a bundle with one graph changed behind its manifest's back."""
    bundle = Bundle.open(shutil.copytree(source, folder / source.name), verify=False)
    path = bundle.path / f"{graph}.onnx"
    model = onnx.load(path)
    for edit in edits:
        edit(model.graph)
    path.with_name(f"{path.name}.data").unlink()
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return bundle


def change_weight(node: str, change: Callable[[npt.NDArray[Any]], object]) -> Edit:
    """Of the first of a node's inputs that is a weight. It gets its own: equal weights of a graph are one."""

    def edit(graph: onnx.GraphProto) -> None:
        (reader,) = [n for n in graph.node if n.name == node]
        weights = {weight.name: weight for weight in graph.initializer}
        at, name = next((at, name) for at, name in enumerate(reader.input) if name in weights)
        values = numpy_helper.to_array(weights[name]).copy()
        change(values)
        graph.initializer.append(numpy_helper.from_array(values, "changed"))
        reader.input[at] = "changed"

    return edit


def add_to_row(row: int) -> Callable[[npt.NDArray[Any]], None]:
    def change(values: npt.NDArray[Any]) -> None:
        values[row] += 1

    return change


def normalise_in_fp16(graph: onnx.GraphProto) -> None:
    """What a converter makes of a LayerNormalization that it takes apart without minding its type."""
    (before, norm, after) = [node for node in graph.node if node.name.startswith(f"{NORM}/")]
    weights = {w.name: numpy_helper.to_array(w).astype(np.float16) for w in graph.initializer}
    for name, value in {"scale": weights[norm.input[1]], "shift": weights[norm.input[2]]}.items():
        graph.initializer.append(numpy_helper.from_array(value, name))
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    x, at = before.input[0], list(graph.node).index(before)
    made = [
        ("ReduceMean", [x, "last"], "mean"),
        ("Sub", [x, "mean"], "off"),
        ("Mul", ["off", "off"], "square"),
        ("ReduceMean", ["square", "last"], "variance"),
        ("Sqrt", ["variance"], "deviation"),
        ("Div", ["off", "deviation"], "normal"),
        ("Mul", ["normal", "scale"], "scaled"),
        ("Add", ["scaled", "shift"], after.output[0]),
    ]
    for node in (before, norm, after):
        graph.node.remove(node)
    for offset, (operator, inputs, output) in enumerate(made):
        graph.node.insert(at + offset, helper.make_node(operator, inputs, [output], name=f"{NORM}/{output}"))


def compared(bundle: Bundle, reference: Path, said: Said, **options: Any) -> Explanation:
    return compare_graphs(bundle, reference, said.eager, said.reference.crops, said.reference.tokens, **options)


@pytest.mark.parametrize(
    ("backend", "compute_precision", "error"),
    [
        ("onnxruntime", "native", 1e-5),
        ("openvino", "native", 1e-5),
        pytest.param("openvino", "bf16", 1e-1, marks=pytest.mark.skipif(not has_bf16(), reason="needs bf16")),
    ],
)
def test_equal_graphs_agree(bundle_dir: Path, said: Said, backend: str, compute_precision: str, error: float) -> None:
    found = compared(Bundle.open(bundle_dir), bundle_dir, said, backend=backend, compute_precision=compute_precision)
    assert (found.jumps, found.noise) == ((), NOISE["bf16" if compute_precision == "bf16" else "fp32"])
    assert found.conclusion.startswith(f"the graphs agree within noise on {backend}")
    assert all(stage.relative is not None and stage.relative < error for stage in found.stages)
    assert [stage.stage for stage in found.stages if stage.part == "encoder"] == [
        "Div_4",
        "clip_visual.conv1/Conv",
        "clip_visual/Add",
        "clip_visual.ln_pre/LayerNormalization",
        *(f"clip_visual.transformer.resblocks.{i}" for i in range(2)),
        "clip_visual/MatMul",
        *(f"decoder.layers.{i}" for i in range(2)),
        "Slice",  # `pooled`
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_changed_weight_of_an_encoder_block_is_found(
    request: pytest.FixtureRequest, bundle_dir: Path, said: Said, tmp_path: Path, precision: str
) -> None:
    source = bundle_dir if precision == "fp32" else request.getfixturevalue("fp16_bundle_dir")
    bundle = edited(source, tmp_path, "encoder", change_weight(MLP, add_to_row(5)))
    found = compared(bundle, bundle_dir, said)
    (jump,) = found.jumps
    assert (jump.part, jump.stage, jump.node, jump.operator, jump.sudden) == (
        "encoder",
        "clip_visual.transformer.resblocks.1",
        MLP,
        "MatMul",
        True,
    )
    assert jump.before < found.noise < jump.after
    assert f"encoder: the error jumps from {jump.before:.1e} to {jump.after:.1e} at {MLP}" in found.format()


@pytest.mark.parametrize("late", [False, True])
def test_a_wrong_row_of_the_position_table_is_found(bundle_dir: Path, said: Said, tmp_path: Path, late: bool) -> None:
    """Row i + 1 is for token i; the later half of the tokens is read in a call of its own."""
    used = int(said.reference.lengths.max()) + 1
    change = change_weight("decoder.pos_emb/Gather", add_to_row(used - 1 if late else 2))
    found = compared(edited(bundle_dir, tmp_path, "decoder_step", change), bundle_dir, said)
    (jump,) = found.jumps
    assert jump.part.endswith("from the cache") == late
    assert (jump.node, jump.operator, jump.before) == ("decoder.pos_emb/Gather", "Gather", 0)


def test_an_overflow_in_fp16_is_found(
    bundle_dir: Path,
    fp16_bundle_dir: Path,
    checkpoint_file: Path,
    label_set: LabelSet,
    crops: list[Crop],
    tmp_path: Path,
) -> None:
    """Activations of a few hundred, as FP16 holds, have squares that it does not."""
    model = build_model(load_checkpoint(checkpoint_file), label_set)
    model.clip_model.visual.ln_pre.weight.mul_(120)
    enlarge = change_weight(
        "clip_visual.ln_pre/LayerNormalization", lambda values: np.multiply(values, 120, out=values)
    )
    reference = edited(bundle_dir, tmp_path, "encoder", enlarge)
    bundle = edited(fp16_bundle_dir, tmp_path, "encoder", enlarge, normalise_in_fp16)
    found = compared(bundle, reference.path, said_by(model, label_set, crops))
    (jump,) = found.jumps
    assert (jump.stage, jump.node) == ("clip_visual.transformer.resblocks.1", f"{NORM}/square")
    assert found.conclusion.startswith(f"encoder: values overflow at {NORM}/square;")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["jumps"][0]["after"] is None


def test_an_export_looks_for_overflows(
    fp16_bundle_dir: Path, bundle_dir: Path, tmp_path: Path, said: Said, cpu_backend: str
) -> None:
    """Where CPUs compute in FP32, no answer shows them."""
    sound = Bundle.open(fp16_bundle_dir)
    require_no_overflow(sound, said.reference)
    enlarge = change_weight(
        "clip_visual.ln_pre/LayerNormalization", lambda values: np.multiply(values, 120, out=values)
    )
    bundle = edited(fp16_bundle_dir, tmp_path, "encoder", enlarge, normalise_in_fp16)
    backend = open_backend(bundle, cpu_backend)  # type: ignore[arg-type]
    assert np.isfinite(backend.step(backend.encode(said.reference.crops), said.reference.tokens[:, :1]).log_probs).all()
    with pytest.raises(ParityError, match=r"values overflow FP16 in the encoder, first at clip_visual.*resblocks\.1;"):
        require_no_overflow(bundle, said.reference)


def test_the_checkpoint_is_exported_again(fp16_bundle_dir: Path, said: Said) -> None:
    bundle = Bundle.open(fp16_bundle_dir)
    found = explain(bundle, said.model, said.token_table, said.reference.crops, said.reference.tokens)
    assert (found.jumps, found.noise) == ((), NOISE["fp16"])
    assert 0 < max(stage.relative or 0 for stage in found.stages) < 5e-3
    assert found.export_error < 1e-5


@pytest.mark.parametrize(
    ("whole", "one_by_one", "sentence"),
    [
        ({OUT: 1.1}, {MIDDLE: 1.1}, f"the error jumps from 0.0e+00 to 1.0e-01 at {MIDDLE}"),
        ({OUT: 1.1}, {}, f"the error grows from 0.0e+00 to 1.0e-01 in {BLOCK}, but not with its nodes run one by one"),
        (
            {IN: 1.00005, OUT: 1.0002},
            {IN: 1.00005, MIDDLE: 1.0002},
            f"the error grows without a jump, and exceeds the noise at {MIDDLE}, from 5.0e-05 to 2.0e-04",
        ),
    ],
)
def test_errors_that_a_backend_makes(
    bundle_dir: Path, said: Said, whole: dict[str, float], one_by_one: dict[str, float], sentence: str
) -> None:
    """A backend that multiplies some results of a block: where its nodes are run as a whole, and where one by one."""

    exact = runs_on("onnxruntime")

    def run(graph: Path, inputs: Mapping[str, Any], tensors: Sequence[str]) -> list[Any]:
        factors = one_by_one if MIDDLE in tensors else whole
        values = zip(tensors, exact(graph, inputs, tensors), strict=True)
        return [value * np.float32(factors[name]) if name in factors else value for name, value in values]

    path = bundle_dir / "encoder.onnx"
    comparison = Comparison(StagedGraph(path, run), StagedGraph(path, exact), 1e-4)
    comparison.compare("encoder", {"crops": said.reference.crops}, {"crops": said.reference.crops})
    (jump,) = comparison.jumps
    assert str(jump).startswith(f"encoder: {sentence}")


def test_bundles_it_cannot_compare_are_refused(bundle_dir: Path, said: Said, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    other = dataclasses.replace(bundle, dimensions=dataclasses.replace(bundle.dimensions, heads=4))
    with pytest.raises(ExportError, match=r"heads must be 3 .*got 4"):
        explain(other, said.model, said.token_table, said.reference.crops, said.reference.tokens)

    def forget_names(graph: onnx.GraphProto) -> None:
        kept = {value.name for value in graph.output}
        new = {n: f"val_{n}" for node in graph.node for n in node.output if n not in kept}
        for node in graph.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]
        del graph.value_info[:]

    with pytest.raises(ExportError, match=r"older version.*export"):
        compared(edited(bundle_dir, tmp_path, "encoder", forget_names), bundle_dir, said)
