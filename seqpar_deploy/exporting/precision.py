"""Convert the network to FP16. TensorRT 11 builds only strongly typed networks, so the graph's types decide."""

from __future__ import annotations

import copy

import torch
from torch import nn

from seqpar_deploy.bundle import Precision
from seqpar_deploy.modeling import sequencepar
from seqpar_deploy.modeling.sequencepar import SequencePAR

CACHE_DTYPE: dict[Precision, str] = {"fp32": "float32", "fp16": "float16"}


def converted(model: SequencePAR, precision: Precision) -> SequencePAR:
    """Convert a float32 model to `precision`. FP32 returns it unchanged. FP16 returns a new one that shares some parts.

    FP16 keeps the parts that overflow or lose too much precision in float32: layer normalisation with its weights,
    attention's softmax, the logits and their log-softmax (the decoder's modules cast for the softmaxes themselves).
    Logits are around 10, and FP16's resolution there is 0.008, which would decide near-ties at random. A convolutional
    stem stays in float32 as well: in FP16 it causes more error than all later layers.
    """
    if precision == "fp32":
        return model
    stem = model.clip_model.visual.conv1
    kept: list[nn.Module] = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    kept += [model.decoder.fc, *([stem] if isinstance(stem, nn.Sequential) else [])]
    in_float32 = {id(tensor) for module in kept for tensor in (*module.parameters(), *module.buffers())}
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        half = parameter if id(parameter) in in_float32 else nn.Parameter(parameter.half(), requires_grad=False)
        memo[id(parameter)] = half
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.half() if buffer.is_floating_point() and id(buffer) not in in_float32 else buffer
    made = copy.deepcopy(model, memo)
    for module in made.modules():
        if isinstance(module, nn.LayerNorm):
            module.__class__ = sequencepar.LayerNorm  # open_clip's own casts to FP16 too early
    return made


def token_table_in(table: torch.Tensor, precision: Precision) -> torch.Tensor:
    """Convert the token table (V, d) to the decoder step's type."""
    return table.to(getattr(torch, CACHE_DTYPE[precision]))
