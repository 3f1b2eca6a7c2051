"""FLOPs counted in the graphs are those that torch counts while it runs the same modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seqpar_deploy.bench import flops
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BundleFormatError
from seqpar_deploy.exporting.graphs import DecoderStepGraph, EncoderGraph, graph_specs, uint8_to_images
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint


@pytest.mark.parametrize(("rows", "columns"), [(1, None), (3, None), (1, 2), (2, 1)])
def test_flops_are_those_torch_counts(bundle_dir: Path, checkpoint_file: Path, rows: int, columns: int | None) -> None:
    bundle = Bundle.open(bundle_dir)
    model = build_model(load_checkpoint(checkpoint_file), bundle.label_set)
    specs = graph_specs(model, "float32")
    d = bundle.dimensions
    kept = columns or d.grid
    with torch.inference_mode():
        encoder = EncoderGraph(model, uint8_to_images(bundle.preprocessing))
        step = DecoderStepGraph(model, model.token_table(bundle.label_set.phrases))
        for counted, graph, spec in (
            (flops.encoder_flops(bundle, rows, columns), encoder, specs["encoder"]),
            (flops.step_flops(bundle, rows, columns), step, specs["decoder_step"]),
        ):
            with FlopCounterMode(display=False) as counter:
                graph(*spec.example({"B": rows, "T": 1, "W": kept * d.patch_size, "N": 1 + d.grid * kept}))
            assert counted == counter.get_total_flops() > 0


def test_bytes_are_weights_and_a_cache_per_crop(bundle_dir: Path, fp16_bundle_dir: Path) -> None:
    bundle, half = Bundle.open(bundle_dir), Bundle.open(fp16_bundle_dir)
    d = bundle.dimensions
    weights = (bundle_dir / "decoder_step.onnx.data").stat().st_size
    cache = 2 * d.layers * d.heads * d.head_size * (d.image_tokens + 2 * d.capacity) * 4
    one, two = flops.step_bytes(bundle, "fp32", 1), flops.step_bytes(bundle, "fp32", 2)
    assert two - one == cache
    assert weights + cache <= one < 2 * (weights + cache)
    assert flops.step_bytes(bundle, "bf16") == one // 2
    assert flops.encoder_bytes(half, "fp16") < flops.encoder_bytes(bundle, "fp32")


def test_the_largest_product_is_the_widest_layer_of_the_tower(bundle_dir: Path) -> None:
    rows, inner, columns = flops.largest_gemm(Bundle.open(bundle_dir))
    assert (rows, {inner, columns}) == (17, {64, 256})  # 16 patches and the class token; width and its feed-forward's


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"\x3a\x05\x0a\xff\xff")
    with pytest.raises(BundleFormatError, match=r"encoder\.onnx cannot be counted: .*export the bundle again"):
        flops.graph_gemms(tmp_path / "encoder.onnx", {"B": 1})
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(BundleFormatError, match="no graph"):
        flops.graph_gemms(tmp_path / "empty.onnx", {"B": 1})
