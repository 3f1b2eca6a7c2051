"""NVIDIA's own parser and builder accept the FP16 graphs. TensorRT-RTX builds without a GPU; running needs one."""

from __future__ import annotations

from pathlib import Path

import pytest

trt = pytest.importorskip("tensorrt_rtx", reason="no wheel for this platform")


def plan_bytes(graph: Path) -> int:
    """Parse a graph, with the weights beside it, and build it for batches and steps of 1 to 4; the plan's size."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(graph))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        sizes = [[size if size >= 0 else dynamic for size in tensor.shape] for dynamic in (1, 2, 4)]
        profile.set_shape(tensor.name, *sizes)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return int(plan.nbytes)


@pytest.mark.parametrize("name", ["encoder", "decoder_step"])
def test_tensorrt_rtx_builds_the_fp16_graph(fp16_bundle_dir: Path, name: str) -> None:
    weights = (fp16_bundle_dir / f"{name}.onnx.data").stat().st_size
    assert plan_bytes(fp16_bundle_dir / f"{name}.onnx") > weights / 2
