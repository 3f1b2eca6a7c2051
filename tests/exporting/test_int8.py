"""The 8-bit graphs beside a bundle's exact ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from seqpar_deploy import Bundle, machine
from seqpar_deploy.backends import open_backend
from seqpar_deploy.errors import BackendError, BackendUnavailableError, BundleIntegrityError


def weights_of(model: onnx.ModelProto) -> list[str]:
    """The constant matrix of each product that has one."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]


def test_products_have_8_bit_weights_and_the_encoder_8_bit_activations(int8_bundle_dir: Path) -> None:
    bundle = Bundle.open(int8_bundle_dir)
    assert bundle.has_int8
    for exact, quick, activations in (
        (bundle.encoder, bundle.int8_encoder, True),
        (bundle.decoder_step, bundle.int8_decoder_step, False),
    ):
        model = onnx.load(quick)
        assert {entry.domain for entry in model.opset_import} == {""}  # any runtime reads it
        made_by = {name: node for node in model.graph.node for name in node.output}
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        products = [node for node in model.graph.node if node.op_type == "MatMul"]
        quantized = [node for node in products if node.input[1].endswith("_dequantized")]
        assert len(quantized) == len(weights_of(onnx.load(exact)))
        for node in quantized:
            weights, scale, zero = (constants[name] for name in made_by[node.input[1]].input)
            assert (weights.dtype, scale.shape, zero.shape) == (np.int8, weights.shape[1:], weights.shape[1:])
            assert not zero.any()
            assert set(np.abs(weights.astype(int)).max(axis=0)) == {127}  # the whole range, in each channel
            assert (node.input[0] in made_by and made_by[node.input[0]].op_type == "DequantizeLinear") == activations


def test_they_say_nearly_what_the_exact_ones_say(int8_bundle_dir: Path, int8_backend: str) -> None:
    assert_nearly_exact(int8_bundle_dir, int8_backend)


def test_where_8_bit_products_overflow_one_runtime_has_others_and_one_is_refused(
    int8_bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "lacks_vnni", lambda: True)
    assert_nearly_exact(int8_bundle_dir, "onnxruntime")
    with pytest.raises(BackendUnavailableError, match=r"VNNI.*onnxruntime"):
        open_backend(Bundle.open(int8_bundle_dir), "openvino", compute_precision="int8")


@pytest.mark.parametrize(
    ("cpuinfo", "lacking"),
    [
        ("flags\t\t: fpu sse2 avx2 avx512f", True),
        ("flags\t\t: fpu sse2 avx2 avx512f avx512_vnni", False),
        ("flags\t\t: fpu sse2 avx2 avx_vnni", False),
        ("Features\t: fp asimd asimddp", False),  # ARM
        ("", False),  # not told
    ],
)
def test_which_processors_they_overflow_on(cpuinfo: str, lacking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: cpuinfo)
    assert machine.lacks_vnni() == lacking


def assert_nearly_exact(int8_bundle_dir: Path, cpu_backend: str) -> None:
    bundle = Bundle.open(int8_bundle_dir)
    golden = bundle.golden()
    exact, quick = (
        (backend := open_backend(bundle, cpu_backend, compute_precision=compute_precision))  # type: ignore[arg-type]
        .step(backend.encode(golden["crops"]), golden["tokens"][:, :-1])
        .log_probs
        for compute_precision in ("native", "int8")
    )
    differences = np.abs(exact - quick)
    assert 1e-5 < np.median(differences) < 5e-2  # it does compute otherwise, and not by much
    assert np.corrcoef(exact.ravel(), quick.ravel())[0, 1] > 0.999


def test_bundles_without_them_and_runtimes_without_bf16_say_so(
    bundle_dir: Path, cpu_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "lacks_vnni", lambda: False)  # or OpenVINO refuses them for that
    bundle = Bundle.open(bundle_dir)
    assert not bundle.has_int8
    with pytest.raises(BackendError, match=r"8-bit graphs; .*--recipe int8"):
        open_backend(bundle, cpu_backend, compute_precision="int8")  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError, match="int4"):
        open_backend(bundle, cpu_backend, compute_precision="int4")  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError, match=r"onnxruntime .*got bf16.*openvino"):
        open_backend(bundle, "onnxruntime", compute_precision="bf16")
    with pytest.raises(BackendUnavailableError, match="onnxruntime-cuda"):
        open_backend(bundle, "onnxruntime-cuda", compute_precision="int8")


def test_a_changed_8_bit_graph_is_refused(int8_bundle_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(int8_bundle_dir, copy)
    weights = copy / "encoder_int8.onnx.data"
    content = bytearray(weights.read_bytes())
    content[10] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleIntegrityError, match=r"encoder_int8\.onnx\.data .*sha256"):
        Bundle.open(copy)
