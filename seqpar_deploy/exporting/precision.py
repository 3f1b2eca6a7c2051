"""FP16 means FP16 in the graph: TensorRT 11 builds only strongly typed networks, so the types must be right here."""

from __future__ import annotations

import copy

import torch
from torch import nn

from seqpar_deploy.bundle import Precision
from seqpar_deploy.modeling import sequencepar
from seqpar_deploy.modeling.sequencepar import SequencePAR

CACHE_DTYPE: dict[Precision, str] = {"fp32": "float32", "fp16": "float16"}


def converted(model: SequencePAR, precision: Precision) -> SequencePAR:
    """A float32 model in `precision`: itself for FP32, otherwise a new one, whose float32 parts it shares.

    FP16 keeps what overflows or loses too much in float32: layer normalisation with its weights, attention's softmax,
    the logits and their log-softmax (the decoder's modules see to the softmaxes themselves). Logits are around 10,
    where FP16 numbers lie 0.008 apart: near-ties would fall either way. A convolutional stem stays in float32 as well:
    in FP16 it alone makes more of the error than all that follows.
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
            module.__class__ = sequencepar.LayerNorm  # open_clip's own returns to FP16 too early
    return made


def token_table_in(table: torch.Tensor, precision: Precision) -> torch.Tensor:
    """The token table (V, d) in the type the decoder step computes in."""
    return table.to(getattr(torch, CACHE_DTYPE[precision]))
