"""The operators of a bundle's graphs: each has a GPU kernel in every ONNX Runtime that the extra `cuda` allows."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

# From the CUDA table of ONNX Runtime's docs/OperatorKernels.md, read at commit 001d12d2 (before version 1.27), and for
# ArgMax microsoft/onnxruntime#22713 (1.21). Shape and Range exchange sizes with the host.
HAVE_KERNELS = """
Abs Add And ArgMax Cast Concat Conv Div Expand Gather GatherElements Gelu Greater LayerNormalization Less
LessOrEqual LogSoftmax MatMul Mul Not Or Range ReduceMean ReduceSum Relu Reshape ScatterElements Shape Sigmoid
Slice Softmax Split Squeeze Sub Transpose Unsqueeze Where
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph", ["encoder.onnx", "decoder_step.onnx"])
def test_onnx_runtime_has_a_kernel_for_each_operator(
    precision: str, graph: str, request: pytest.FixtureRequest
) -> None:
    """Equal and ReduceMax ran on the CPU before 1.27, with a copy there and back in each step; GatherND was unsafe to
    capture before 1.30."""
    folder: Path = request.getfixturevalue("bundle_dir" if precision == "fp32" else "fp16_bundle_dir")
    nodes = onnx.load(folder / graph, load_external_data=False).graph.node
    assert {node.op_type for node in nodes} - {*HAVE_KERNELS.split()} == set()
