"""Sessions of both runtimes: one form, and the guards that every graph needs."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from seqpar_deploy import Bundle, machine
from seqpar_deploy.backends import BackendName, open_backend, open_session
from seqpar_deploy.backends.openvino import supports_bf16
from seqpar_deploy.backends.sessions import OnnxRuntimeSession, OpenVinoSession, import_onnxruntime
from seqpar_deploy.errors import BackendError, BackendUnavailableError


def test_both_runtimes_have_one_form(bundle_dir: Path, cpu_backend: BackendName) -> None:
    bundle = Bundle.open(bundle_dir)
    session = open_session(bundle.encoder, cpu_backend, threads=1)
    (crops,) = session.inputs
    side = bundle.dimensions.image_size
    assert (crops.name, crops.shape, np.dtype(crops.dtype)) == ("crops", (None, side, None, 3), np.dtype(np.uint8))
    feed = {"crops": np.zeros((2, side, side, 3), np.uint8)}
    everything = session.run(feed)
    chosen = session.run(feed, ["cross_kv"])
    assert list(chosen) == ["cross_kv"]
    np.testing.assert_array_equal(chosen["cross_kv"], everything["cross_kv"])
    in_memory = open_session(_self_contained(), cpu_backend)
    np.testing.assert_allclose(in_memory.run({"x": np.ones((1, 2), np.float32)})["y"], [[3.0, 3.0]])
    assert in_memory.metadata == {"names": "{0: 'person'}"}


@pytest.mark.slow
def test_no_runtime_keeps_telemetry_in_the_home_folder(
    bundle_dir: Path, cpu_backend: BackendName, tmp_path: Path
) -> None:
    code = f"from seqpar_deploy import Recognizer; Recognizer.from_bundle({str(bundle_dir)!r}, backend={cpu_backend!r})"
    bare = {"HOME": str(tmp_path), "PATH": "/usr/bin"}  # without what tells of CI or a test, where nothing is kept
    subprocess.run([sys.executable, "-c", code], check=True, env=bare, timeout=300)
    assert list(tmp_path.iterdir()) == []


def _self_contained() -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.array([[1, 2], [2, 1]], np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [values[0]], [values[1]], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"names": "{0: 'person'}"})
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("graph", ["encoder", "decoder_step"])
def test_openvino_is_refused_8_bit_graphs_where_they_overflow(
    int8_bundle_dir: Path, fp16_bundle_dir: Path, graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "lacks_vnni", lambda: True)
    bundle = Bundle.open(int8_bundle_dir)
    with pytest.raises(BackendUnavailableError, match="VNNI"):
        open_session(getattr(bundle, f"int8_{graph}"), "openvino")
    open_session(getattr(bundle, graph), "openvino")
    open_session(getattr(Bundle.open(fp16_bundle_dir), graph), "openvino")


def test_onnxruntime_has_other_8_bit_products_there(int8_bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Bundle.open(int8_bundle_dir).int8_encoder
    key = "session.x64quantprecision"
    monkeypatch.setattr(machine, "lacks_vnni", lambda: True)
    assert OnnxRuntimeSession(graph)._session.get_session_options().get_session_config_entry(key) == "1"
    monkeypatch.setattr(machine, "lacks_vnni", lambda: False)
    with pytest.raises(RuntimeError, match=key):
        OnnxRuntimeSession(graph)._session.get_session_options().get_session_config_entry(key)


def test_openvino_computes_in_fp32_unless_asked(bundle_dir: Path) -> None:
    graph = Bundle.open(bundle_dir).decoder_step
    hint = OpenVinoSession(graph)._compiled.get_property("INFERENCE_PRECISION_HINT")
    assert hint.to_string() == "f32"
    if supports_bf16():
        reduced = OpenVinoSession(graph, compute_precision="bf16")
        assert reduced._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "bf16"


def test_what_cannot_be_opened_is_named_in_one_line(tmp_path: Path, cpu_backend: BackendName) -> None:
    file = tmp_path / "text.onnx"
    file.write_text("no graph")
    with pytest.raises(BackendError, match=r"cannot open .*text\.onnx") as caught:
        open_session(file, cpu_backend)
    assert "\n" not in str(caught.value)
    with pytest.raises(BackendError, match="in memory"):
        open_session(b"no graph", cpu_backend)


@pytest.mark.parametrize("version", [0, 10**6, 2**63 - 1])
def test_an_operator_set_that_does_not_exist_ends_at_once(cpu_backend: BackendName, version: int) -> None:
    """OpenVINO counts up to it."""
    import onnx

    model = onnx.load_model_from_string(_self_contained())
    model.opset_import[0].version = version
    with pytest.raises(BackendError, match=rf"operator set {version}\b"):
        open_session(model.SerializeToString(), cpu_backend)


def test_metadata_that_are_not_utf_8_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    graph = _self_contained().replace(b"'person'", b"'p\xe9rson'")
    assert OnnxRuntimeSession(graph).metadata == {}
    assert "UTF-8" in caplog.text


def test_names_that_are_not_utf_8_are_one_line() -> None:
    graph = _self_contained().replace(b"\n\x01x", b"\n\x01\xe9")
    with pytest.raises(BackendError, match="in memory"):
        OnnxRuntimeSession(graph)


def test_graphs_unlike_their_manifest_are_one_line(bundle_dir: Path, tmp_path: Path, cpu_backend: BackendName) -> None:
    """They open, but lack an output, or return another shape."""
    import onnx

    from seqpar_deploy.bundle import HOST_DECODER_STEP, file_entries, write_manifest

    copy = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    manifest = Bundle.open(copy).manifest
    sound = onnx.load(copy / HOST_DECODER_STEP, load_external_data=False)
    crops = np.zeros((1, *[Bundle.open(copy).dimensions.image_size] * 2, 3), np.uint8)
    for name in ("next_token", "log_probs"):
        model = onnx.ModelProto()
        model.CopyFrom(sound)
        place = [output.name for output in model.graph.output].index(name)
        if name == "next_token":
            del model.graph.output[place]
        else:  # another tensor under its name
            model.graph.node.append(onnx.helper.make_node("Identity", ["position"], ["log_probs2"]))
            model.graph.output[place].CopyFrom(onnx.helper.make_tensor_value_info("log_probs2", 7, ["B"]))
        onnx.save(model, copy / HOST_DECODER_STEP)
        files = {**manifest["files"], **file_entries(copy, [HOST_DECODER_STEP])}
        write_manifest(copy, {**manifest, "files": files})
        with contextlib.closing(open_backend(Bundle.open(copy), cpu_backend)) as backend:
            state = backend.encode(crops)
            with pytest.raises(BackendError, match=r"decoder step of .*bundle.*manifest"):
                backend.step(state, np.zeros((1, 1), np.int64))


@pytest.mark.parametrize(("name", "extra"), [("openvino", "openvino"), ("onnxruntime", "cpu")])
def test_a_missing_sdk_names_the_extra(
    bundle_dir: Path, name: BackendName, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=rf"pip install 'seqpar-deploy\[{extra}\]'"):
        open_session(Bundle.open(bundle_dir).encoder, name)


def test_cuda_libraries_are_loaded_first_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """ONNX Runtime prints a library it misses to stdout, where JSON may go; some builds have no CUDA until then."""
    providers = ["CPUExecutionProvider"]

    def preload_dlls() -> None:
        print("Failed to load libcublasLt.so.13")
        providers.append("CUDAExecutionProvider")

    module = SimpleNamespace(get_available_providers=lambda: providers, preload_dlls=preload_dlls)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    caplog.set_level("DEBUG", "seqpar_deploy")
    assert import_onnxruntime("cuda") is module
    assert import_onnxruntime("cuda") is module
    assert capsys.readouterr().out == ""
    assert sum("libcublasLt.so.13" in record.getMessage() for record in caplog.records) == 1  # loaded once
