"""Engines built by the command a user types, with TensorRT-RTX, which needs no GPU to build. Running them needs one.

Builders run in processes of their own: one that goes wrong is not to take the other tests along.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from seqpar_deploy import Bundle
from seqpar_deploy.backends.gpu.engine_files import GRAPHS, identity_of, open_engines
from seqpar_deploy.backends.gpu.profiles import graph_profiles
from seqpar_deploy.bundle import BatchProfile
from seqpar_deploy.errors import EngineError

EXPORT = Path(sys.executable).with_name("seqpar-export")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="no wheel of tensorrt_rtx for this platform"
    ),
]


@pytest.fixture
def bundle_copy(fp16_bundle_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fp16_bundle_dir, tmp_path / "bundle"))


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([EXPORT, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    return line


NETWORK = """
import json, sys
import tensorrt_rtx as trt

from seqpar_deploy.build_engines import drop_unused_outputs

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(sys.argv[1])
tensors = [network.get_input(i) for i in range(network.num_inputs)]
tensors += [network.get_output(i) for i in range(network.num_outputs)]
drop_unused_outputs(network)
print(json.dumps({
    "outputs": [network.get_output(i).name for i in range(network.num_outputs)],
    "tensors": {t.name: [t.dtype.name, list(t.shape)] for t in tensors},
    "layers": [[str(l.type).split(".")[-1], l.get_output(0).dtype.name] for l in network],
}))
"""


def parsed(onnx: Path) -> dict[str, Any]:
    """What NVIDIA's parser makes of a graph: its tensors' types and shapes, its layers' types, the engine's outputs."""
    done = subprocess.run([sys.executable, "-c", NETWORK, onnx], capture_output=True, text=True, check=True)
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def assert_typed_as_designed(bundle: Bundle) -> None:
    """Inputs and outputs as declared; products in FP16; normalisation, softmax and the logits in FP32."""
    names = {"uint8": "UINT8", "int64": "INT64", "float16": "HALF", "float32": "FLOAT"}
    for graph, file in GRAPHS.items():
        network = parsed(bundle.path / file)
        specs = bundle.manifest["graphs"][graph]
        for spec in (*specs["inputs"], *specs["outputs"]):
            shape = [-1 if isinstance(size, str) else size for size in spec["shape"]]
            assert network["tensors"][spec["name"]] == [names[spec["dtype"]], shape]
        types = {kind: {t for k, t in network["layers"] if k == kind} for kind, _ in network["layers"]}
        assert types["NORMALIZATION"] == {"FLOAT"}
        assert types["MATRIX_MULTIPLY"] == ({"HALF"} if graph == "encoder" else {"HALF", "FLOAT"})
        if graph == "decoder_step":
            assert types["SOFTMAX"] == {"FLOAT"}
            logits = [t for k, t in network["layers"] if k == "MATRIX_MULTIPLY" and t == "FLOAT"]
            assert len(logits) == 1


def test_the_network_is_typed_as_designed(fp16_bundle_dir: Path) -> None:
    assert_typed_as_designed(Bundle.open(fp16_bundle_dir))


def test_an_engine_has_no_output_that_decoding_does_not_read(fp16_bundle_dir: Path, tmp_path: Path) -> None:
    assert parsed(fp16_bundle_dir / "encoder.onnx")["outputs"] == ["cross_kv", "pooled"]
    assert parsed(fp16_bundle_dir / "decoder_step.onnx")["outputs"] == ["log_probs", "next_token", "self_kv_out"]
    model = onnx.load(fp16_bundle_dir / "decoder_step.onnx")
    model.graph.node.append(onnx.helper.make_node("Identity", ["log_probs"], ["of_another_time"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("of_another_time", onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "decoder_step.onnx")
    network = parsed(tmp_path / "decoder_step.onnx")
    assert "of_another_time" in network["tensors"]
    assert network["outputs"] == ["log_probs", "next_token", "self_kv_out"]


def test_builds_both_engines_and_says_what_they_are(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    printed = run("engine", bundle_copy, "--batch", "1,1,2", "--batch", "1,4,8").stdout.strip()
    folder = Path(printed)
    assert folder.parent == bundle_copy / "engines"
    assert {file.name for file in folder.iterdir()} == {"encoder.plan", "decoder_step.plan", "engine.json"}
    values = json.loads((folder / "engine.json").read_text())
    assert folder.name == f"tensorrt_rtx-{values['version']}-any-gpu-fp16"
    assert values["onnx"] == {
        name: entry["sha256"]
        for name, entry in bundle.manifest["files"].items()
        if ".onnx" in name and "host" not in name
    }
    assert values["batches"] == [{"min": 1, "opt": 1, "max": 2}, {"min": 1, "opt": 4, "max": 8}]
    for name in GRAPHS:
        weights = (bundle_copy / f"{name}.onnx.data").stat().st_size
        assert (folder / f"{name}.plan").stat().st_size > weights / 2
    opened = open_engines(bundle, identity_of(bundle, "tensorrt_rtx", values["version"], None))
    assert opened.identity.batches == (BatchProfile(min=1, opt=1, max=2), BatchProfile(min=1, opt=4, max=8))
    Bundle.open(bundle_copy)  # engines beside it leave a bundle as it was

    other = Bundle.open(bundle_copy)
    with pytest.raises(EngineError, match=r"tensorrt_rtx .*got"):
        open_engines(other, identity_of(other, "tensorrt_rtx", "9.9.9.9", None))


def test_profiles_cover_what_the_graphs_take(fp16_bundle_dir: Path) -> None:
    bundle = Bundle.open(fp16_bundle_dir)
    d = bundle.dimensions
    (encoder,) = graph_profiles(bundle, [BatchProfile(min=1, opt=4, max=8)])["encoder"]
    assert encoder == {"crops": tuple((rows, d.image_size, d.image_size, 3) for rows in (1, 4, 8))}
    one, several = graph_profiles(bundle, [BatchProfile(min=1, opt=4, max=8)])["decoder_step"]
    assert one["tokens"] == ((1, 1), (4, 1), (8, 1))
    assert several["tokens"] == ((1, 1), (4, 8), (8, d.capacity))
    assert several["self_kv"][2] == (2 * d.layers, 8, d.heads, d.capacity, d.head_size)


@pytest.fixture
def trimmed_copy(made_once: Any, tmp_path: Path) -> Path:
    """A tiny bundle whose model reads crops of 4, 6 or 8 patch columns."""
    from fakes.bundles import export_trimmed

    made = made_once("trimmed-fp16", export_trimmed) / "trimmed"
    return Path(shutil.copytree(made, tmp_path / "trimmed"))


def test_builds_engines_for_trimmed_crops(trimmed_copy: Path) -> None:
    """A profile per width of the encoder, and all widths in each of a step: NVIDIA's builder takes them."""
    bundle = Bundle.open(trimmed_copy)
    assert_typed_as_designed(bundle)
    assert [parsed(bundle.encoder)["tensors"][name][1] for name in ("crops", "cross_kv", "pooled")] == [
        [-1, 32, -1, 3],
        [4, -1, 3, -1, 24],
        [-1, 3 * 48],
    ]
    batches = [BatchProfile(min=1, opt=1, max=2), BatchProfile(min=1, opt=4, max=8)]
    profiles = graph_profiles(bundle, batches)
    assert (len(profiles["encoder"]), len(profiles["decoder_step"])) == (6, 4)
    assert {shapes["crops"][1] for shapes in profiles["encoder"]} == {
        (rows, 32, width, 3) for rows in (1, 4) for width in (16, 24, 32)
    }
    folder = Path(run("engine", trimmed_copy, "--batch", "1,1,2", "--batch", "1,4,8").stdout.strip())
    values = json.loads((folder / "engine.json").read_text())
    assert (values["columns"], values["pooled"]) == ([4, 6, 8], True)
    opened = open_engines(bundle, identity_of(bundle, "tensorrt_rtx", values["version"], None))
    assert opened.identity.columns == (4, 6, 8)
    for name in GRAPHS:
        weights = (trimmed_copy / f"{name}.onnx.data").stat().st_size
        assert (folder / f"{name}.plan").stat().st_size > weights / 2


def test_engines_of_whole_squares_are_as_before(bundle_copy: Path) -> None:
    folder = Path(run("engine", bundle_copy, "--batch", "1,1,2").stdout.strip())
    values = json.loads((folder / "engine.json").read_text())
    assert (values["columns"], values["pooled"]) == ([], True)
    former = {key: value for key, value in values.items() if key not in ("columns", "pooled")}
    (folder / "engine.json").write_text(json.dumps(former))
    bundle = Bundle.open(bundle_copy)
    opened = open_engines(bundle, identity_of(bundle, "tensorrt_rtx", values["version"], None))
    assert (opened.identity.columns, opened.identity.pooled) == ((), False)


def test_a_killed_or_stopped_build_leaves_no_engines(bundle_copy: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        building = subprocess.Popen([EXPORT, "engine", bundle_copy], stderr=subprocess.PIPE, text=True)
        engines = bundle_copy / "engines"
        deadline = time.monotonic() + 60
        while not list(engines.glob(".*.partial-*/encoder.plan")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(building.pid, number)
        _, said = building.communicate(timeout=60)
        assert building.returncode == code, said
        assert [path.name for path in engines.iterdir() if not path.name.startswith(".")] == []
        if number != signal.SIGKILL:
            assert list(engines.iterdir()) == []
            assert "interrupted" in said
    run("engine", bundle_copy, "--batch", "1,1,1")
    assert len(list(engines.iterdir())) == 1  # and nothing of the one that was killed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "8"], "got '8'"),
        (["--batch", "1,4,2"], "got '1,4,2'"),
        (["--runtime", "tensorrt"], "backend tensorrt cannot be loaded: No module named 'tensorrt'"),
        (["--version-compatible"], "tensorrt_rtx 1."),
    ],
)
def test_what_does_not_work_is_said_in_one_line(bundle_copy: Path, options: list[str], message: str) -> None:
    if "tensorrt" in options and importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    assert message in error_line(run("engine", bundle_copy, *options, code=2))
    assert not list((bundle_copy / "engines").glob("*/engine.json"))


def test_both_steps_in_one(checkpoint_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    printed = run("checkpoint", checkpoint_file, "--recipe", "fp16", "--out", out, "--engine").stdout
    assert Path(printed.splitlines()[-1]).parent == out / "engines"
    assert (Path(printed.splitlines()[-1]) / "engine.json").is_file()
