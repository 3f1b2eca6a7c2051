from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seqpar_deploy.backends.sessions import OnnxRuntimeSession, OpenVinoSession
from seqpar_deploy.errors import BundleIntegrityError
from seqpar_deploy.onnx_file import check_head, external_data_locations, graph_inputs, has_8_bit_products


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def save(path: Path, graph: onnx.GraphProto) -> Path:
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def graph(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(initializers))


def test_initializers(tmp_path: Path) -> None:
    inline = numpy_helper.from_array(np.zeros(1000, np.float32), "inline")
    path = save(tmp_path / "g.onnx", graph(initializers=(inline, outside("weights.data"), outside("../../etc/passwd"))))
    assert external_data_locations(path) == {"weights.data", "../../etc/passwd"}


def test_constants_and_subgraphs(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=outside("constant.data"))
    branch = graph(initializers=(outside("branch.data"),))
    choice = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=graph())
    assert external_data_locations(save(tmp_path / "g.onnx", graph(constant, choice))) == {
        "constant.data",
        "branch.data",
    }


def test_functions_and_sparse(tmp_path: Path) -> None:
    sparse = onnx.SparseTensorProto(values=outside("sparse.data"), indices=outside("indices.data"), dims=[2])
    made = graph()
    made.sparse_initializer.append(sparse)
    model = helper.make_model(made)
    constant = helper.make_node("Constant", [], ["c"], value=outside("function.data"))
    model.functions.append(helper.make_function("d", "f", [], ["c"], [constant], [helper.make_opsetid("", 20)]))
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_data_locations(path) == {"sparse.data", "indices.data", "function.data"}


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x7f", b"\x3b"])
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleIntegrityError, match="ONNX file"):
        external_data_locations(path)


def test_nesting_is_bounded(tmp_path: Path) -> None:
    inner = graph()
    for _ in range(14):
        inner = graph(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=graph()))
    with pytest.raises(BundleIntegrityError, match="nested more than 32"):
        external_data_locations(save(tmp_path / "g.onnx", inner))


def change(model: onnx.ModelProto, **values: object) -> bytes:
    for name, value in values.items():
        model.ClearField(name)
        if isinstance(value, int):
            setattr(model, name, value)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (change(helper.make_model(graph()), ir_version=None), "IR version"),
        (change(helper.make_model(graph()), ir_version=2**40), "IR version"),
        (change(helper.make_model(graph()), opset_import=None), "operator set"),
        (change(helper.make_model(graph()), graph=None), "no graph"),
        (2 * helper.make_model(graph()).SerializeToString(), "twice"),
        (helper.make_model(graph()).SerializeToString() + b"\xf8\x01\x01", "field 31"),
        (helper.make_model(graph()).SerializeToString()[:-1], "truncated"),
        (b"version https://git-lfs.github.com/spec/v1", "wire type"),
        (b"", "graph|empty"),
    ],
)
def test_what_does_not_begin_as_a_graph_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    for given in (path, content):
        with pytest.raises(ValueError, match=reason):
            check_head(given)


def test_a_sound_head_passes(tmp_path: Path) -> None:
    check_head(save(tmp_path / "g.onnx", graph()))
    check_head((tmp_path / "g.onnx").read_bytes())


def test_inputs_are_named_with_their_shapes_and_types(tmp_path: Path) -> None:
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT16, ["n", 3, None, 64])
    sizes = helper.make_tensor_value_info("sizes", TensorProto.INT64, [1, 2])
    weights = helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])  # before IR version 4, weights are inputs too
    made = helper.make_graph([], "g", [picture, weights, sizes], [], [numpy_helper.from_array(np.zeros(4), "w")])
    path = save(tmp_path / "g.onnx", made)
    for given in (path, path.read_bytes()):
        found = [(one.name, one.shape, one.element_type) for one in graph_inputs(given)]
        assert found == [
            ("picture", (None, 3, None, 64), TensorProto.FLOAT16),
            ("sizes", (1, 2), TensorProto.INT64),
        ]


def test_inputs_without_a_shape_and_of_a_damaged_file(tmp_path: Path) -> None:
    made = helper.make_graph([], "g", [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, None)], [])
    content = save(tmp_path / "g.onnx", made).read_bytes()
    assert [(one.shape, one.element_type) for one in graph_inputs(content)] == [((), TensorProto.BFLOAT16)]
    for damaged in (content[:-3], b"\x3a\x02\x5b\x00"):
        with pytest.raises(ValueError, match=r"truncated|wire type"):
            graph_inputs(damaged)


def test_runtimes_agree_on_the_inputs_of_a_bundle(bundle_dir: Path) -> None:
    for graph_file in sorted(bundle_dir.glob("*.onnx")):
        by_openvino, by_onnxruntime = OpenVinoSession(graph_file).inputs, OnnxRuntimeSession(graph_file).inputs
        assert by_openvino == by_onnxruntime
        assert by_openvino


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_8_bit_products_are_found(kind: type, int8_bundle_dir: Path, bundle_dir: Path, tmp_path: Path) -> None:
    matrix, zero = numpy_helper.from_array(np.ones((2, 3), kind), "w"), numpy_helper.from_array(np.ones(3, kind), "z")
    constant = helper.make_node("Constant", [], ["c"], value=matrix)
    quantised = helper.make_node("QuantizeLinear", ["x", "s"], ["y"])
    for number, (made, expected) in enumerate(
        (
            (graph(initializers=(zero, matrix)), True),
            (graph(constant), True),
            (graph(quantised), True),
            (graph(helper.make_node("Add", ["x", "s"], ["y"]), initializers=(zero,)), False),
        )
    ):
        assert has_8_bit_products(save(tmp_path / f"{number}.onnx", made)) is expected
    assert has_8_bit_products(int8_bundle_dir / "decoder_step_int8.onnx")
    assert not has_8_bit_products(bundle_dir / "decoder_step.onnx")
