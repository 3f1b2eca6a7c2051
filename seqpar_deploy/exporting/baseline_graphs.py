"""Graphs of a generic ONNX export, as baselines in benchmarks.

| graph | inputs | outputs |
|---|---|---|
| plain_encoder | crops uint8 (B, H, W, 3) | image_tokens (B, N, d) |
| plain_decoder | tokens (B, T) from `<bos>` on, image_tokens | log_probs (B, T, V) |
| cross_kv | image_tokens | cross_kv (2L, B, h, N, k) |
| concat_step | tokens (B, 1), past_kv (2L, B, h, T, k), cross_kv | log_probs (B, 1, V), present_kv (T + 1 slots) |

The plain decoder reads the whole sequence at each step and recomputes the image tokens' keys and values. The step with
a cache copies it into a longer one, like exports of Hugging Face models. Both use the image tower without changes for
export.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from seqpar_deploy.exporting.graphs import GraphSpec, TensorSpec, export_graph
from seqpar_deploy.modeling.eager import normalise
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.preprocess import Preprocessing

OPSET = 20


class _Encoder(nn.Module):
    def __init__(self, model: SequencePAR, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.visual, self.preprocessing = model.clip_model.visual, preprocessing

    def forward(self, crops: Tensor) -> Tensor:
        return self.visual(normalise(crops, self.preprocessing))


class _PlainDecoder(nn.Module):
    def __init__(self, model: SequencePAR, token_table: Tensor) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.token_table: Tensor
        self.register_buffer("token_table", token_table)

    def forward(self, tokens: Tensor, image_tokens: Tensor) -> Tensor:
        log_probs, _ = self.decoder(tokens, self.token_table[tokens], self.decoder.cross_kv(image_tokens))
        return log_probs


class _CrossKv(nn.Module):
    def __init__(self, model: SequencePAR) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, image_tokens: Tensor) -> Tensor:
        return self.decoder.cross_kv(image_tokens)


class _ConcatStep(_PlainDecoder):
    def forward(self, tokens: Tensor, past_kv: Tensor, cross_kv: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        position = torch.full_like(tokens[:, 0], past_kv.shape[3])
        log_probs, new_kv = self.decoder(tokens, self.token_table[tokens], cross_kv, past_kv, position)
        return log_probs, torch.cat([past_kv, new_kv], dim=3)


def export_plain_encoder(model: SequencePAR, preprocessing: Preprocessing, path: Path) -> None:
    """Export the encoder. All functions of this module raise ExportError."""
    size = model.architecture.image_size
    crops = TensorSpec(name="crops", dtype="uint8", shape=("B", size, size, 3))
    spec = GraphSpec(inputs=(crops,), outputs=(_image_tokens(model),))
    export_graph(_Encoder(model, preprocessing), spec, path, opset=OPSET)


def export_plain_decoder(model: SequencePAR, token_table: Tensor, path: Path) -> None:
    tokens = TensorSpec(name="tokens", dtype="int64", shape=("B", "T"))
    log_probs = TensorSpec(name="log_probs", dtype="float32", shape=("B", "T", model.architecture.vocabulary))
    spec = GraphSpec(inputs=(tokens, _image_tokens(model)), outputs=(log_probs,))
    export_graph(_PlainDecoder(model, token_table), spec, path, opset=OPSET)


def export_cross_kv(model: SequencePAR, path: Path) -> None:
    spec = GraphSpec(inputs=(_image_tokens(model),), outputs=(_cache(model, "cross_kv", _patches(model)),))
    export_graph(_CrossKv(model), spec, path, opset=OPSET)


def export_concat_step(model: SequencePAR, token_table: Tensor, path: Path) -> None:
    spec = GraphSpec(
        inputs=(
            TensorSpec(name="tokens", dtype="int64", shape=("B", 1)),
            _cache(model, "past_kv", "T"),
            _cache(model, "cross_kv", _patches(model)),
        ),
        outputs=(
            TensorSpec(name="log_probs", dtype="float32", shape=("B", 1, model.architecture.vocabulary)),
            _cache(model, "present_kv", "T + 1"),
        ),
    )
    export_graph(_ConcatStep(model, token_table), spec, path, opset=OPSET)


def _image_tokens(model: SequencePAR) -> TensorSpec:
    return TensorSpec(name="image_tokens", dtype="float32", shape=("B", _patches(model), model.architecture.embed_dim))


def _cache(model: SequencePAR, name: str, slots: int | str) -> TensorSpec:
    a = model.architecture
    return TensorSpec(name=name, dtype="float32", shape=(2 * a.layers, "B", a.heads, slots, a.head_size))


def _patches(model: SequencePAR) -> int:
    return model.architecture.image_tokens
