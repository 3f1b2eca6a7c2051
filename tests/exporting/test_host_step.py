"""The decoder step for hosts: derived from the other graph, with its weights, and with the same results."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from seqpar_deploy import Bundle
from seqpar_deploy.backends import BackendName, open_backend
from seqpar_deploy.backends.host import host_graph
from seqpar_deploy.bundle import (
    DECODER_STEP,
    HOST_DECODER_STEP,
    INT8_DECODER_STEP,
    INT8_HOST_DECODER_STEP,
    file_entries,
    write_manifest,
)
from seqpar_deploy.errors import ExportError
from seqpar_deploy.exporting.host_step import require_same_steps, write_host_step
from seqpar_deploy.onnx_file import external_data_locations
from seqpar_deploy.vocab import BOS, FIRST_ATTRIBUTE, PAD


def graph_of(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


@pytest.mark.parametrize(
    ("fixture", "whole", "host"),
    [
        ("bundle_dir", DECODER_STEP, HOST_DECODER_STEP),
        ("fp16_bundle_dir", DECODER_STEP, HOST_DECODER_STEP),
        ("int8_bundle_dir", INT8_DECODER_STEP, INT8_HOST_DECODER_STEP),
    ],
)
def test_it_has_an_input_per_layer_and_no_weights_of_its_own(
    fixture: str, whole: str, host: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(fixture)
    layers = Bundle.open(folder, verify=False).dimensions.layers
    graph = graph_of(folder / host).graph
    caches = {f"{cache}.{index}" for cache in ("self_kv", "cross_kv") for index in range(2 * layers)}
    assert {value.name for value in graph.input} == {"tokens", "position"} | caches
    assert [value.name for value in graph.output] == ["log_probs", "next_token", "new_kv"]
    assert not {"ScatterElements", "GatherND"} & {node.op_type for node in graph.node}
    assert external_data_locations(folder / host) == external_data_locations(folder / whole)
    assert not (folder / f"{host}.data").exists()


def test_openvino_cannot_fuse_a_gelu_into_a_product(bundle_dir: Path, int8_bundle_dir: Path) -> None:
    """Or it takes a slower kernel. With 8-bit weights it has one kernel, and nothing is put between them."""
    for file, reshaped in ((bundle_dir / HOST_DECODER_STEP, True), (int8_bundle_dir / INT8_HOST_DECODER_STEP, False)):
        nodes = graph_of(file).graph.node
        made_by = {output: node for node in nodes for output in node.output}
        sums = [made_by[node.input[0]] for node in nodes if node.op_type == "Gelu"]
        assert sums
        for node in sums:
            products = [made_by[name] for name in node.input if name in made_by]
            assert [product.op_type for product in products] == ["Reshape" if reshaped else "MatMul"]


def without_host_graph(bundle_dir: Path, copy: Path) -> Bundle:
    """A bundle like those from before the host graph."""
    shutil.copytree(bundle_dir, copy)
    (copy / HOST_DECODER_STEP).unlink()
    manifest = Bundle.open(bundle_dir).manifest
    files = {name: entry for name, entry in manifest["files"].items() if name != HOST_DECODER_STEP}
    write_manifest(copy, {**manifest, "files": files})
    return Bundle.open(copy)


def test_bundles_without_it_run_and_give_the_same(bundle_dir: Path, tmp_path: Path, cpu_backend: BackendName) -> None:
    """Rows at different positions, slots that are written twice, `<pad>`, and rows that are dropped and repeated."""
    bundle = Bundle.open(bundle_dir)
    former = without_host_graph(bundle_dir, tmp_path / "former")
    assert host_graph(former, former.decoder_step) == former.decoder_step != host_graph(bundle, former.decoder_step)
    crops = bundle.golden()["crops"][:3]
    found: list[list[Any]] = []
    for one in (bundle, former):
        backend = open_backend(one, cpu_backend)
        state, outputs = backend.encode(crops), []
        outputs.append(backend.step(state, np.full((3, 1), BOS)).log_probs)
        a, b = FIRST_ATTRIBUTE, FIRST_ATTRIBUTE + 1
        outputs.append(backend.step(state, np.array([[a, b], [b, PAD], [PAD, a]])).log_probs)
        state.truncate(np.array([3, 1, 2]))
        outputs.append(backend.step(state, np.array([[a], [a], [b]])).log_probs)
        state.reorder(np.array([2, 0, 2]))
        outputs.append(backend.step(state, np.array([[b, a], [a, a], [a, b]])).log_probs)
        assert state.self_kv.flags.c_contiguous
        assert state.cross_kv.flags.c_contiguous  # or runtimes copy it in each step
        found.append([*outputs, state.self_kv, state.lengths])
        backend.close()
    for got, expected in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


def swapped_layers(model: onnx.ModelProto) -> None:
    swap = {"self_kv.0": "self_kv.2", "self_kv.2": "self_kv.0"}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = swap.get(name, name)


def swapped_image_tokens(model: onnx.ModelProto) -> None:
    swap = {"cross_kv.0": "cross_kv.2", "cross_kv.2": "cross_kv.0"}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = swap.get(name, name)


def negative_keys(model: onnx.ModelProto) -> None:
    (last,) = [node for node in model.graph.node if node.output[0] == "new_kv"]
    last.op_type = "Neg"


@pytest.mark.parametrize("plant", [swapped_layers, swapped_image_tokens, negative_keys])
def test_a_host_graph_that_computes_something_else_is_refused(
    plant: Callable[[onnx.ModelProto], None], bundle_dir: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle_dir, tmp_path / "copy"))
    model = graph_of(copy / HOST_DECODER_STEP)
    plant(model)
    onnx.save(model, copy / HOST_DECODER_STEP)
    manifest = Bundle.open(bundle_dir).manifest
    changed = {**manifest, "files": manifest["files"] | file_entries(copy, [HOST_DECODER_STEP])}
    with pytest.raises(ExportError, match=rf"{HOST_DECODER_STEP}.*relative error"):
        require_same_steps(Bundle.from_manifest(copy, changed))
    require_same_steps(Bundle.open(bundle_dir))


def another_write(model: onnx.ModelProto) -> None:
    (scatter,) = [node for node in model.graph.node if node.op_type == "ScatterElements"]
    scatter.op_type = "GatherElements"
    del scatter.input[2]


def another_read(model: onnx.ModelProto) -> None:
    reads = [node for node in model.graph.node if node.op_type == "Gather" and node.input[0] == "cross_kv"]
    reads[1].input[1] = reads[0].input[1]  # layer 0 twice, another never


@pytest.mark.parametrize(("change", "named"), [(another_write, "ScatterElements"), (another_read, "cross_kv")])
def test_a_step_of_another_form_is_refused(
    change: Callable[[onnx.ModelProto], None], named: str, bundle_dir: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle_dir, tmp_path / "copy"))
    model = graph_of(copy / DECODER_STEP)
    change(model)
    onnx.save(model, copy / DECODER_STEP)
    with pytest.raises(ExportError, match=named):
        write_host_step(copy / DECODER_STEP, copy / HOST_DECODER_STEP)
