"""Bundles as earlier versions wrote them still open and run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from seqpar_deploy import Recognizer
from seqpar_deploy.bundle import Bundle, file_entries
from seqpar_deploy.cli.info import info
from seqpar_deploy.cli.parity import parity
from seqpar_deploy.modeling.eager import normalise
from seqpar_deploy.modeling.load import load_network
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.reports.parity_page import parity_page

NEW_ARRAYS = {"columns", "pooled", "suspect_crops"}


def as_before(bundle_dir: Path, copy: Path, *, number: int) -> Path:
    """Write a bundle as before trimming: graphs for whole squares, and no columns and no pooled features recorded.

    Format 1 had no `pooled`. In the first bundles of format 2 it was the mean of the image tokens, (B, d).
    """
    shutil.copytree(bundle_dir, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    specs, size, tokens = manifest["graphs"], *(manifest["dimensions"][key] for key in ("image_size", "image_tokens"))
    encoder, step = (onnx.load(copy / f"{name}.onnx", load_external_data=False) for name in specs)
    for value in (*encoder.graph.input, *encoder.graph.output, *step.graph.input):
        for dim in value.type.tensor_type.shape.dim:
            fixed = {"W": size, "N": tokens}.get(dim.dim_param)
            if fixed:
                dim.dim_value = fixed
    pooled = encoder.graph.output.pop()
    specs["encoder"]["outputs"].pop()
    if number > 1:
        d = pooled.type.tensor_type.shape.dim[1].dim_value // 3
        for node in encoder.graph.node:
            node.output[:] = ["pooled_3d" if name == "pooled" else name for name in node.output]
        for name, numbers in (("first", [0]), ("last", [d]), ("axis", [1])):
            encoder.graph.initializer.append(numpy_helper.from_array(np.array(numbers), name))
        encoder.graph.node.append(helper.make_node("Slice", ["pooled_3d", "first", "last", "axis"], ["pooled"]))
        encoder.graph.output.append(helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, ["B", d]))
        specs["encoder"]["outputs"].append({"name": "pooled", "dtype": "float32", "shape": ["B", d]})
    for name, graph in (("encoder", encoder), ("decoder_step", step)):
        (copy / f"{name}.onnx").write_bytes(graph.SerializeToString())
    with np.load(copy / "golden.npz") as arrays:
        golden = {name: arrays[name] for name in arrays.files if name not in NEW_ARRAYS}
    np.savez_compressed(copy / "golden.npz", **golden)
    manifest |= {"format": number, "padding": "full", "columns": None}
    if number == 1:
        manifest |= {"padding": "trimmed", "columns": [1]}  # which no format 1 has: ignored
        for check in manifest["parity"]["checks"]:
            check["passed"] = check.pop("status") != "failed"
    manifest["files"] |= file_entries(copy, ["encoder.onnx", "decoder_step.onnx", "golden.npz"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize("number", [1, 2])
def test_bundles_from_before_trimming_run(
    bundle_dir: Path, number: int, crops: list[Crop], tmp_path: Path, cpu_backend: Any
) -> None:
    before = as_before(bundle_dir, tmp_path / "bundle", number=number)
    bundle = Bundle.open(before)
    assert (bundle.manifest["format"], bundle.padding, bundle.columns, bundle.trimming) == (number, "full", None, None)
    assert bundle.has_pooled == (number == 2)
    with (
        Recognizer.from_bundle(before, backend=cpu_backend) as old,
        Recognizer.from_bundle(bundle_dir, backend=cpu_backend) as new,
    ):
        for found, wanted in zip(old.predict(crops[:3]), new.predict(crops[:3]), strict=True):
            assert found.tokens == wanted.tokens
            np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-4)
    assert len(parity_page(bundle.manifest["parity"], {}, {})) > 1000


@pytest.mark.parametrize("number", [1, 2])
def test_the_gate_and_info_read_them(
    bundle_dir: Path, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = as_before(bundle_dir, tmp_path / "bundle", number=number)
    parity(before, backend="onnxruntime", output=tmp_path / "parity.json")
    values = json.loads((tmp_path / "parity.json").read_text())
    status = {check["name"]: check["status"] for check in values["checks"]}
    assert (values["passed"], status["trimming"], status["pooled"]) == (True, "passed", "skipped")
    capsys.readouterr()
    info(before, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["padding"], found["columns"]) == (number, "full", None)


def test_pooled_has_mean_maximum_and_class_token(
    bundle_dir: Path, fp16_bundle_dir: Path, checkpoint_file: Path, crops: list[Crop]
) -> None:
    loaded = load_network(checkpoint_file)
    for folder, tolerance in ((bundle_dir, 1e-5), (fp16_bundle_dir, 5e-3)):
        bundle = Bundle.open(folder)
        prepared = prepare_batch(crops[:3], image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)
        session = onnxruntime.InferenceSession(bundle.encoder, disabled_optimizers=["NchwcTransformer"])
        (pooled,) = session.run(["pooled"], {"crops": prepared})
        with torch.inference_mode():
            tokens = loaded.network.encode_image(normalise(torch.from_numpy(prepared), bundle.preprocessing))
        wanted = np.concatenate([tokens.mean(1).numpy(), tokens.amax(1).numpy(), tokens[:, 0].numpy()], axis=1)
        assert (pooled.dtype, pooled.shape) == (np.float32, (3, 3 * loaded.network.architecture.embed_dim))
        np.testing.assert_allclose(pooled, wanted, atol=tolerance)
