"""The two graphs of a bundle, as torch modules, and their export to ONNX.

| graph | inputs | outputs |
|---|---|---|
| encoder | crops uint8 (B, H, W, 3) | cross_kv (2L, B, h, N, k), pooled (B, d) |
| decoder_step | tokens (B, T), position (B,), self_kv (2L, B, h, C, k), cross_kv | log_probs, next_token, self_kv_out |

`pooled` float32 is the mean of the N image tokens, class token included, after the projection to d channels. Heads that
draft attributes read it; decoding does not, so backends that draft nothing do not request it.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import copy
import dataclasses
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seqpar_deploy.errors import ExportError
from seqpar_deploy.modeling.eager import continue_sequences, normalise
from seqpar_deploy.modeling.sequencepar import ResidualConvolutions, SequencePAR
from seqpar_deploy.preprocess import Preprocessing


class EncoderGraph(nn.Module):
    """Scaling, normalisation and the image tower; the decoder's cross-attention keys and values, and `pooled`."""

    def __init__(self, model: SequencePAR, to_images: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        visual = model.clip_model.visual
        # Another tower over the same weights: the model itself is left as it is.
        self.clip_visual = copy.deepcopy(visual, memo={id(weight): weight for weight in visual.parameters()})
        if isinstance(visual.conv1, nn.Sequential):
            to_tower = _To(visual.class_embedding.dtype)
            self.clip_visual.conv1 = nn.Sequential(*normalisation_folded(visual.conv1), to_tower)
        for block in self.clip_visual.transformer.resblocks:
            if isinstance(block.attn, nn.MultiheadAttention):
                block.attn = FusableAttention(block.attn)
        self.decoder = model.decoder
        self.to_images = to_images

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        images = self.to_images(crops).to(next(self.clip_visual.conv1.parameters()).dtype)
        image_tokens = self.clip_visual(images)  # (B, N, d)
        return self.decoder.cross_kv(image_tokens), image_tokens.float().mean(1)


def normalisation_folded(stem: nn.Sequential) -> nn.Sequential:
    """A convolutional stem whose batch normalisations are part of its convolutions."""
    layers: list[nn.Module] = []
    for layer in stem:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = layers.pop()
            assert isinstance(convolution, nn.Conv2d)
            dtype = convolution.weight.dtype
            layers.append(fuse_conv_bn_eval(convolution.float(), copy.deepcopy(layer).float()).to(dtype=dtype))
            continue
        layers.append(copy.deepcopy(layer))
        if isinstance(layer, ResidualConvolutions):
            layers[-1].body = normalisation_folded(layer.body)
    return nn.Sequential(*layers)


class _To(nn.Module):
    """From the type of a stem to that of its tower."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


class FusableAttention(nn.Module):
    """torch's self-attention with the same weights, in the plain form that runtimes recognise and fuse.

    Exported as it is, nn.MultiheadAttention folds the batch into the heads, with twice the transposes.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.head_size = attention.num_heads, attention.head_dim
        # One product each for queries, keys and values: splitting a joint one costs a copy in OpenVINO.
        self.weights = nn.ParameterList(attention.in_proj_weight.chunk(3))
        self.biases = nn.ParameterList(attention.in_proj_bias.chunk(3))
        self.out_proj = attention.out_proj

    def forward(self, x: Tensor, *_: Tensor, **__: object) -> tuple[Tensor, None]:
        """x (B, N, width) -> (attended (B, N, width), None), the form open_clip's blocks expect."""
        projected = (F.linear(x, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True))
        q, k, v = (
            part.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2) for part in projected
        )  # (B, h, N, k)
        scores = (q * self.head_size**-0.5) @ k.transpose(-1, -2)  # (B, h, N, N)
        attended = scores.softmax(-1) @ v
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


class DecoderStepGraph(nn.Module):
    """One step of T tokens a row, over a cache of fixed capacity whose rows may be at different positions.

    The text tower is gone: its output is the constant `token_table` (V, d).
    """

    def __init__(self, model: SequencePAR, token_table: Tensor) -> None:
        super().__init__()
        self.decoder = model.decoder
        self.token_table: Tensor
        self.register_buffer("token_table", token_table)

    def forward(
        self, tokens: Tensor, position: Tensor, self_kv: Tensor, cross_kv: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_probs, self_kv_out = continue_sequences(self.decoder, tokens, self.token_table, cross_kv, self_kv, position)
        return log_probs, log_probs.argmax(-1), self_kv_out


def uint8_to_images(preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """What a bundle's encoder does first: crops uint8 (B, H, W, 3) -> normalised images (B, 3, H, W)."""
    return lambda crops: normalise(crops, preprocessing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A graph input or output: its name, element type and shape, in numbers where fixed and letters where not."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """Names, types and shapes of one graph, declared once for export, manifest and check."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def example(self, sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
        """Zero tensors of the inputs' shapes, with these sizes for the letters."""
        return tuple(
            torch.zeros(
                [size if isinstance(size, int) else sizes[size] for size in spec.shape],
                dtype=getattr(torch, spec.dtype),
            )
            for spec in self.inputs
        )


def graph_specs(model: SequencePAR, cache_dtype: str) -> dict[str, GraphSpec]:
    """Specs of `encoder` and `decoder_step`; `cache_dtype` is `float32` or `float16`."""
    a = model.architecture
    pairs = 2 * a.layers
    cross_kv = TensorSpec(name="cross_kv", dtype=cache_dtype, shape=(pairs, "B", a.heads, a.image_tokens, a.head_size))
    self_kv = TensorSpec(name="self_kv", dtype=cache_dtype, shape=(pairs, "B", a.heads, a.capacity, a.head_size))
    return {
        "encoder": GraphSpec(
            inputs=(TensorSpec(name="crops", dtype="uint8", shape=("B", a.image_size, a.image_size, 3)),),
            outputs=(cross_kv, TensorSpec(name="pooled", dtype="float32", shape=("B", a.embed_dim))),
        ),
        "decoder_step": GraphSpec(
            inputs=(
                TensorSpec(name="tokens", dtype="int64", shape=("B", "T")),
                TensorSpec(name="position", dtype="int64", shape=("B",)),
                self_kv,
                cross_kv,
            ),
            outputs=(
                TensorSpec(name="log_probs", dtype="float32", shape=("B", "T", a.vocabulary)),
                TensorSpec(name="next_token", dtype="int64", shape=("B", "T")),
                dataclasses.replace(self_kv, name="self_kv_out"),
            ),
        ),
    }


def export_graph(module: nn.Module, spec: GraphSpec, path: Path, *, opset: int) -> None:
    """Write one graph with its weights beside it, its nodes named after their modules, and check it.

    Raises ExportError.
    """
    dynamic = tuple(
        {axis: _dimension(str(size)) for axis, size in enumerate(s.shape) if isinstance(size, str)} for s in spec.inputs
    )
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            # Sizes of 1 would be taken for constants.
            spec.example({"B": 2, "T": 2}),
            dynamo=True,
            opset_version=opset,
            input_names=[s.name for s in spec.inputs],
            output_names=[s.name for s in spec.outputs],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert program is not None
    _name_after_modules(program.model.graph)
    _forget_sources(program.model)
    program.save(path, external_data=True)
    _check(path, spec, opset)


def _name_after_modules(graph: Any) -> None:
    """Call nodes and the tensors they make `<module>/<operator>`, from the second on with a number.

    `decoder.layers.0.self_att/Add`; `Div_2` in the outermost module. Numbers count one operator in one module: the
    casts that FP16 adds leave all other names as in FP32, so that tensors of the two can be compared by name.
    """
    counts: collections.Counter[str] = collections.Counter()
    declared = set(graph.outputs)  # these keep the names that the bundle promises
    for node in graph.all_nodes():
        # From the outermost module to the innermost, then the operation; shapes of inputs are outside all modules.
        *modules, _ = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['']"))
        inside = bool(modules and modules[0] == "" and modules[-1])
        name = f"{modules[-1]}/{node.op_type}" if inside else node.op_type
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
        for index, value in enumerate(node.outputs):
            if value not in declared:
                value.name = node.name if index == 0 else f"{node.name}.{index}"


def _forget_sources(model: Any) -> None:
    """Drop the exporter's notes: stack traces of this machine, several times the size of the graph itself."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _dimension(name: str) -> torch.export.Dim:
    return torch.export.Dim(name, min=1, max=1024)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks to stdout, warnings and logging of things a user cannot act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _check(path: Path, spec: GraphSpec, opset: int) -> None:
    """onnx.checker, and the declared inputs, outputs and opset."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path.name} is not valid ONNX: {str(error).splitlines()[0]}") from None
    graph = onnx.load(path, load_external_data=False)
    versions = {entry.domain: entry.version for entry in graph.opset_import}
    if versions != {"": opset}:
        raise ExportError(f"{path.name} uses operator sets {versions}, wanted opset {opset} alone")
    for declared, found in ((spec.inputs, graph.graph.input), (spec.outputs, graph.graph.output)):
        got = [_tensor_spec(value) for value in found]
        if got != list(declared):
            raise ExportError(f"{path.name} has {got}, wanted {list(declared)}")


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)),
        shape=tuple(size.dim_param or size.dim_value for size in kind.shape.dim),
    )
