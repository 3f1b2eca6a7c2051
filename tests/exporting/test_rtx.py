"""NVIDIA's own parser and builder accept the FP16 graphs. TensorRT-RTX builds without a GPU; running needs one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="no wheel of tensorrt_rtx for this platform"
)

BUILD = """
import sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    sys.exit("\\n".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
profile = builder.create_optimization_profile()
for i in range(network.num_inputs):
    tensor = network.get_input(i)
    least, most = ([size if size > 0 else wanted for size in tensor.shape] for wanted in (1, 4))
    profile.set_shape(tensor.name, least, most, most)
config = builder.create_builder_config()
config.add_optimization_profile(profile)
plan = builder.build_serialized_network(network, config)
print(plan.nbytes if plan else sys.exit("the builder gave no plan"))
"""


def plan_bytes(graph: Path) -> int:
    """Parse a graph, with the weights beside it, and build it for batches and steps of 1 to 4; the plan's size.

    In a process of its own: a native builder that goes wrong is not to take the other tests along.
    """
    done = subprocess.run([sys.executable, "-c", BUILD, graph], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("name", ["encoder", "decoder_step"])
def test_tensorrt_rtx_builds_the_fp16_graph(fp16_bundle_dir: Path, name: str) -> None:
    weights = (fp16_bundle_dir / f"{name}.onnx.data").stat().st_size
    assert plan_bytes(fp16_bundle_dir / f"{name}.onnx") > weights / 2
