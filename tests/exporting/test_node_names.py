"""Nodes are named after the modules they come from, alike in FP32 and FP16."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

GRAPHS = ("encoder", "decoder_step")


def graph_of(bundle: Path, name: str) -> onnx.GraphProto:
    return onnx.load(bundle / f"{name}.onnx", load_external_data=False).graph


@pytest.mark.parametrize("graph", GRAPHS)
def test_both_precisions_give_an_operation_the_same_name(bundle_dir: Path, fp16_bundle_dir: Path, graph: str) -> None:
    fp32, fp16 = ({n.name: n.op_type for n in graph_of(b, graph).node} for b in (bundle_dir, fp16_bundle_dir))
    assert fp32.items() <= fp16.items()
    assert {fp16[name] for name in fp16.keys() - fp32.keys()} == {"Cast"}


@pytest.mark.parametrize("graph", GRAPHS)
def test_tensors_are_called_like_the_nodes_that_make_them(bundle_dir: Path, graph: str) -> None:
    made = graph_of(bundle_dir, graph)
    declared = {value.name for value in made.output}
    assert len({node.name for node in made.node}) == len(made.node)
    for node in made.node:
        if node.output[0] not in declared:
            others = [f"{node.name}.{index}" for index in range(1, len(node.output))]
            assert list(node.output) == [node.name, *others]


def test_names_say_module_operator_and_number(bundle_dir: Path) -> None:
    encoder, step = ({node.name for node in graph_of(bundle_dir, graph).node} for graph in GRAPHS)
    assert {"Div_2", "clip_visual.conv1/Conv", "clip_visual.transformer.resblocks.1.ln_1/LayerNormalization"} <= encoder
    assert {"decoder.layers.0.enc_att.attention.fc_q/MatMul", "decoder.layers.1/Mul", "ScatterElements"} <= step
