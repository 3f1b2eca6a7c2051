"""Define the two graphs of a bundle as torch modules, and export them to ONNX.

| graph | inputs | outputs |
|---|---|---|
| encoder | crops uint8 (B, H, W, 3) | cross_kv (2L, B, h, N, k), pooled (B, 3d) |
| decoder_step | tokens (B, T), position (B,), self_kv (2L, B, h, C, k), cross_kv | log_probs, next_token, self_kv_out |

H is the side of the square, and W a whole number of patches, up to that side: crops may be trimmed to the middle of the
square, see `preprocess.Trimming`. N = 1 + (H / p) * (W / p) image tokens follow from it.

`pooled` float32 is the mean and the maximum of the N image tokens, class token included, and the class token, after the
projection to d channels. Heads that draft attributes read it (`decoding/drafts.py`).
"""

from __future__ import annotations

import ast
import collections
import contextlib
import copy
import dataclasses
import io
import logging
import re
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
from seqpar_deploy.modeling.sequencepar import Attention, ResidualConvolutions, SequencePAR
from seqpar_deploy.preprocess import Preprocessing


class EncoderGraph(nn.Module):
    """Scale and normalise crops, run the image tower, and return cross-attention keys and values, and `pooled`."""

    def __init__(self, model: SequencePAR, to_images: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        visual = model.clip_model.visual
        # A second tower that shares the weights, so that the model is not changed.
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
        return self.decoder.cross_kv(image_tokens), pooled_tokens(image_tokens)


def pooled_tokens(image_tokens: Tensor) -> Tensor:
    """Return the mean, the maximum and the class token of image tokens (B, N, d), in float32 (B, 3d)."""
    tokens = image_tokens.float()
    # ReduceMax has no CUDA kernel before ONNX Runtime 1.27, and OpenVINO gets a Gather of one 8-bit token wrong.
    most = tokens.gather(1, tokens.argmax(1, keepdim=True))
    return torch.cat([tokens.mean(1, keepdim=True), most, tokens[:, :1]], dim=-1).flatten(1)


def normalisation_folded(stem: nn.Sequential) -> nn.Sequential:
    """Return a convolutional stem with its batch normalisations folded into its convolutions."""
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
    """Cast from the stem's type to the tower's."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


class FusableAttention(nn.Module):
    """torch's self-attention, with the same weights, in the form that runtimes recognise and fuse.

    The export of nn.MultiheadAttention folds the batch into the heads, with twice as many transposes.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.head_size = attention.num_heads, attention.head_dim
        # Separate products for queries, keys and values: splitting a joint product costs a copy in OpenVINO.
        self.weights = nn.ParameterList(attention.in_proj_weight.chunk(3))
        self.biases = nn.ParameterList(attention.in_proj_bias.chunk(3))
        self.out_proj = attention.out_proj

    def forward(self, x: Tensor, *_: Tensor, **__: object) -> tuple[Tensor, None]:
        """Return (attended x (B, N, width), None), as open_clip's blocks expect."""
        projected = (F.linear(x, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True))
        q, k, v = (
            part.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2) for part in projected
        )  # (B, h, N, k)
        scores = (q * self.head_size**-0.5) @ k.transpose(-1, -2)  # (B, h, N, N)
        attended = scores.softmax(-1) @ v
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


class DecoderStepGraph(nn.Module):
    """Run one step of T tokens per row, with a cache of fixed capacity. Rows may be at different positions.

    The output of the text tower is the constant `token_table` (V, d).
    """

    def __init__(self, model: SequencePAR, token_table: Tensor) -> None:
        super().__init__()
        # A second decoder that shares the weights, so that the model is not changed.
        self.decoder = copy.deepcopy(model.decoder, memo={id(weight): weight for weight in model.decoder.parameters()})
        for layer in self.decoder.decoder_layers():
            layer.self_att.attention = StepAttention(layer.self_att.attention, joint=True)
            layer.enc_att.attention = StepAttention(layer.enc_att.attention, joint=False)
        self.token_table: Tensor
        self.register_buffer("token_table", token_table)

    def forward(
        self, tokens: Tensor, position: Tensor, self_kv: Tensor, cross_kv: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_probs, self_kv_out = continue_sequences(self.decoder, tokens, self.token_table, cross_kv, self_kv, position)
        return log_probs, log_probs.argmax(-1), self_kv_out


class StepAttention(Attention):
    """The decoder's attention, with the same results, in fewer operations.

    Self-attention has one product for queries, keys and values: 6 % of a step of one token, since each product costs a
    wake-up of the threads. The scale is part of the weights: OpenVINO would fuse it into the product, and takes a
    slower kernel for that.
    """

    def __init__(self, attention: Attention, *, joint: bool) -> None:
        nn.Module.__init__(self)
        self.heads, self.head_size, self.fc_o = attention.heads, attention.head_size, attention.fc_o
        scale = self.head_size**-0.5
        queries = attention.fc_q.weight * scale, attention.fc_q.bias * scale
        if not joint:
            self.fc_q = _linear(*queries)
            return
        others = [(linear.weight, linear.bias) for linear in (attention.fc_k, attention.fc_v)]
        self.fc_qkv = _linear(*(torch.cat(parts) for parts in zip(queries, *others, strict=True)))

    def queries(self, x: Tensor) -> Tensor:
        return self.split(self.fc_q(x))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = self.split(self.fc_qkv(x)).chunk(3, dim=1)
        return queries, keys, values


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight, linear.bias = (nn.Parameter(value.detach(), requires_grad=False) for value in (weight, bias))
    return linear


def uint8_to_images(preprocessing: Preprocessing) -> Callable[[Tensor], Tensor]:
    """Return the first stage of the encoder: crops uint8 (B, H, W, 3) to normalised images (B, 3, H, W)."""
    return lambda crops: normalise(crops, preprocessing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Describe a graph's input or output. A dynamic dimension of the shape is a letter."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """Describe the inputs and outputs of one graph, for the export, the manifest and the check.

    `unit`: W is a multiple of it, the patch size.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    unit: int = 1

    def example(self, sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
        """Return zero tensors for the inputs, with these sizes for the letters."""
        return tuple(
            torch.zeros(
                [size if isinstance(size, int) else sizes[size] for size in spec.shape],
                dtype=getattr(torch, spec.dtype),
            )
            for spec in self.inputs
        )

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Return the dynamic dimensions of the inputs for torch's export."""
        letters = {size for spec in self.inputs for size in spec.shape if isinstance(size, str)}
        dims = {letter: torch.export.Dim(letter, min=1, max=4096) for letter in letters - {"W"}}
        if "W" in letters:
            dims["W"] = self.unit * torch.export.Dim("columns", min=1, max=4096)
        return tuple(
            {axis: dims[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in self.inputs
        )


def graph_specs(model: SequencePAR, cache_dtype: str) -> dict[str, GraphSpec]:
    """Return the specs of `encoder` and `decoder_step`. `cache_dtype` is `float32` or `float16`."""
    a = model.architecture
    pairs = 2 * a.layers
    cross_kv = TensorSpec(name="cross_kv", dtype=cache_dtype, shape=(pairs, "B", a.heads, "N", a.head_size))
    self_kv = TensorSpec(name="self_kv", dtype=cache_dtype, shape=(pairs, "B", a.heads, a.capacity, a.head_size))
    return {
        "encoder": GraphSpec(
            inputs=(TensorSpec(name="crops", dtype="uint8", shape=("B", a.image_size, "W", 3)),),
            outputs=(cross_kv, TensorSpec(name="pooled", dtype="float32", shape=("B", 3 * a.embed_dim))),
            unit=a.image_size // a.grid,
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
    """Write one graph, with its weights beside it and its nodes named after their modules, and check it.

    Raises ExportError.
    """
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            # The exporter treats sizes of 1 as constants.
            spec.example({"B": 2, "T": 2, "N": 9, "W": 4 * spec.unit}),
            dynamo=True,
            opset_version=opset,
            input_names=[s.name for s in spec.inputs],
            output_names=[s.name for s in spec.outputs],
            dynamic_shapes=spec.dynamic_shapes(),
            verbose=False,
        )
    assert program is not None
    _name_dimensions(program.model.graph, spec)
    _name_after_modules(program.model.graph)
    _forget_sources(program.model)
    program.save(path, external_data=True)
    _check(path, spec, opset)


def _name_dimensions(graph: Any, spec: GraphSpec) -> None:
    """Name the dynamic dimensions of inputs and outputs by their letters, and the number of patch columns `columns`.

    The exporter names them by expressions, with a symbol such as `s18` for the columns.
    """
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.shape is not None:
                for axis, size in enumerate(value.shape):
                    if not isinstance(size, int):
                        value.shape[axis] = re.sub(r"\bs\d+\b", "columns", str(size.value))
    for declared, values in ((spec.inputs, graph.inputs), (spec.outputs, graph.outputs)):
        for tensor, value in zip(declared, values, strict=True):
            for axis, letter in enumerate(tensor.shape):
                if isinstance(letter, str):
                    value.shape[axis] = letter


def _name_after_modules(graph: Any) -> None:
    """Name nodes and their outputs `<module>/<operator>`, with a number from the second on.

    For example `decoder.layers.0.self_att/Add`, or `Div_2` in the outermost module. Each operator of a module has its
    own count, so the casts of FP16 do not change other names, and tensors of FP16 and FP32 can be compared by name.
    """
    counts: collections.Counter[str] = collections.Counter()
    declared = set(graph.outputs)  # these keep the names that the manifest lists
    for node in graph.all_nodes():
        # Scopes are from the outermost module to the innermost, then the operation. Input shapes are outside modules.
        # A Split that the exporter makes of a sequence has none, and belongs to the module of what it splits.
        source = node.inputs[0].producer() if node.op_type == "Split" and node.inputs[0] is not None else None
        *modules, _ = ast.literal_eval(_scopes(node) or _scopes(source) or "['']")
        inside = bool(modules and modules[0] == "" and modules[-1])
        name = f"{modules[-1]}/{node.op_type}" if inside else node.op_type
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
        for index, value in enumerate(node.outputs):
            if value not in declared:
                value.name = node.name if index == 0 else f"{node.name}.{index}"


def _scopes(node: Any) -> str | None:
    scopes: str | None = None if node is None else node.metadata_props.get("pkg.torch.onnx.name_scopes")
    return scopes


def _forget_sources(model: Any) -> None:
    """Drop the exporter's metadata: stack traces of this machine, several times larger than the graph."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's output on stdout, warnings and logging, which users cannot act on."""
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
    """Check a graph with onnx.checker, and its inputs, outputs and opset. Raises ExportError."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"{path.name} must be valid ONNX: {str(error).splitlines()[0]}") from None
    graph = onnx.load(path, load_external_data=False)
    versions = {entry.domain: entry.version for entry in graph.opset_import}
    if versions != {"": opset}:
        raise ExportError(f"{path.name} must use opset {opset} only, got {versions}; report this with your checkpoint")
    for declared, found in ((spec.inputs, graph.graph.input), (spec.outputs, graph.graph.output)):
        got = [_tensor_spec(value) for value in found]
        if got != list(declared):
            raise ExportError(f"{path.name} must have {list(declared)}, got {got}; report this with your checkpoint")


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)),
        shape=tuple(size.dim_param or size.dim_value for size in kind.shape.dim),
    )
