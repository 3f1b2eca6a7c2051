"""Derive the sizes of a SequencePAR network from its weights."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.preprocess import Trimming, wrong_columns
from seqpar_deploy.vocab import FIRST_ATTRIBUTE

Shapes = Mapping[str, tuple[int, ...]]

_CLIP_HEAD_SIZE = 64  # of all OpenAI CLIP towers
_PUBLISHED_HEAD_SIZE = 64  # of the published decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Describe the network, so that it can be built before its weights are loaded.

    Attributes:
        attributes: n, the number of attributes.
        embed_dim: d, the width of CLIP's projection and of the decoder.
        vision: open_clip's configuration of the image tower.
        text: open_clip's configuration of the text tower.
        quick_gelu: Whether both towers use QuickGELU. Default: True.
        layers: L, decoder layers. Default: 6.
        heads: Attention heads per decoder layer. Default: 8.
        head_size: Channels per head. Default: 64.
        ffn: Width of the decoder's feed-forward layers. Default: 2048.
        stem: Channels of a convolutional stem, without the tower's width. Each layer halves the sides. Default: none,
            as published.
        columns: The widths in patch columns to which crops are trimmed, ascending, the last one the whole square.
            Default: none, crops are read with all their padding, as published.
    """

    attributes: int
    embed_dim: int
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    quick_gelu: bool = True
    layers: int = 6
    heads: int = 8
    head_size: int = 64
    ffn: int = 2048
    stem: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> int:
        """V = n + 3, attributes and special tokens."""
        return FIRST_ATTRIBUTE + self.attributes

    @property
    def capacity(self) -> int:
        """C = n + 1, the longest sequence in tokens, `<bos>` included."""
        return self.attributes + 1

    @property
    def image_size(self) -> int:
        return int(self.vision["image_size"])

    @property
    def image_tokens(self) -> int:
        """N, the patches of a whole square and the class token."""
        return 1 + self.grid**2

    @property
    def grid(self) -> int:
        """Patches per side of a whole square."""
        return self.image_size // int(self.vision["patch_size"])

    @property
    def trimming(self) -> Trimming | None:
        """The trimming of crops, or None if they are read with all their padding."""
        return Trimming(columns=self.columns, patch_size=int(self.vision["patch_size"])) if self.columns else None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        try:
            made = cls(**{**values, **{name: tuple(values.get(name, ())) for name in ("stem", "columns")}})
        except TypeError as error:
            raise CheckpointError(
                f"the checkpoint's stored architecture has unknown or missing fields: {error}; update seqpar-deploy"
            ) from None
        for name in ("attributes", "embed_dim", "layers", "heads", "head_size", "ffn"):
            if type(size := getattr(made, name)) is not int or size < 1:
                raise CheckpointError(f"{name} of the stored architecture must be an integer above 0, got {size!r}")
        for key in [*made.vision, *made.text]:
            if key.startswith(("timm_", "hf_")):  # open_clip would download and build the model they name
                raise CheckpointError(f"the stored architecture must not name a model to download, got {key!r}")
        halvings = len(made.stem) + 1
        if made.stem and made.vision.get("patch_size") != 2**halvings:
            raise CheckpointError(
                f"patch_size of the stored architecture must be {2**halvings}, since its stem halves the sides "
                f"{halvings} times, got {made.vision.get('patch_size')}"
            )
        if made.columns:
            made.check_columns()
        return made

    def check_columns(self) -> None:
        """Raise CheckpointError if `columns` do not fit the image tower."""
        try:
            problem = wrong_columns(self.columns, self.grid)
        except (KeyError, TypeError, ValueError, ArithmeticError):
            raise CheckpointError(
                "image_size and patch_size of the stored architecture must be integers above 0, got others; copy the "
                "checkpoint again"
            ) from None
        if problem:
            raise CheckpointError(f"columns of the stored architecture must be {problem}, got {list(self.columns)}")


def vit_l_14(attributes: int) -> Architecture:
    """Return the architecture of the published model: OpenAI CLIP ViT-L/14 at 224 px, and a 6-layer decoder."""
    return Architecture(
        attributes=attributes,
        embed_dim=768,
        vision={"image_size": 224, "layers": 24, "width": 1024, "head_width": 64, "patch_size": 14},
        text={"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    )


def architecture_from_shapes(
    shapes: Shapes, *, encoder: str | None = None, decoder_heads: int | None = None
) -> Architecture:
    """Derive an architecture from the shapes of a state dict with published names.

    Args:
        shapes: Shapes by name.
        encoder: An open_clip model name. Needed if the head size or the activation is not OpenAI CLIP's, since weights
            do not show either. Default: OpenAI CLIP.
        decoder_heads: Decoder heads. Needed if they do not have 64 channels each. Default: heads of 64 channels.

    Raises:
        CheckpointError: A weight is missing or has an unexpected shape.
    """
    vision_width, _, patch_size, _ = _shape(shapes, "clip_model.visual.conv1.weight", 4)
    positions, _ = _shape(shapes, "clip_model.visual.positional_embedding", 2)
    mlp, _ = _shape(shapes, "clip_model.visual.transformer.resblocks.0.mlp.c_fc.weight", 2)
    _, embed_dim = _shape(shapes, "clip_model.visual.proj", 2)
    context_length, text_width = _shape(shapes, "clip_model.positional_embedding", 2)
    vocab_size, _ = _shape(shapes, "clip_model.token_embedding.weight", 2)
    text_mlp, _ = _shape(shapes, "clip_model.transformer.resblocks.0.mlp.c_fc.weight", 2)
    inner, d_model = _shape(shapes, "decoder.layers.0.self_att.attention.fc_q.weight", 2)
    ffn, _ = _shape(shapes, "decoder.layers.0.pwff.fc1.weight", 2)
    vocabulary, _ = _shape(shapes, "decoder.fc.weight", 2)
    if d_model != embed_dim:
        raise CheckpointError(f"the decoder's width must be CLIP's projection width {embed_dim}, got {d_model}")
    if vocabulary <= FIRST_ATTRIBUTE:
        raise CheckpointError(
            f"decoder.fc.weight must have 3 rows for special tokens and one per attribute, got {vocabulary}"
        )
    grid = math.isqrt(positions - 1)
    if grid * grid != positions - 1:
        raise CheckpointError(f"the image encoder must have a square number of positions plus one, got {positions}")

    vision: dict[str, Any] = {
        "image_size": grid * patch_size,
        "layers": _count_layers(shapes, r"clip_model\.visual\.transformer\.resblocks\.(\d+)\."),
        "width": vision_width,
        "head_width": _CLIP_HEAD_SIZE,
        "mlp_ratio": mlp / vision_width,
        "patch_size": patch_size,
    }
    text: dict[str, Any] = {
        "context_length": context_length,
        "vocab_size": vocab_size,
        "width": text_width,
        "heads": max(1, text_width // _CLIP_HEAD_SIZE),
        "layers": _count_layers(shapes, r"clip_model\.transformer\.resblocks\.(\d+)\."),
        "mlp_ratio": text_mlp / text_width,
    }
    quick_gelu = True
    if encoder is not None:
        named = open_clip_config(encoder)
        vision |= named["vision_cfg"]
        text |= named["text_cfg"]
        quick_gelu = bool(named.get("quick_gelu", False))
    for tower, width in (("image", vision_width), ("text", text_width)):
        if encoder is None and width % _CLIP_HEAD_SIZE:
            raise CheckpointError(
                f"the {tower} tower's width must be a multiple of 64, OpenAI CLIP's head size, got {width}; "
                "name the open_clip model with --encoder"
            )
    heads = _decoder_heads(inner, decoder_heads)
    return Architecture(
        attributes=vocabulary - FIRST_ATTRIBUTE,
        embed_dim=embed_dim,
        vision=vision,
        text=text,
        quick_gelu=quick_gelu,
        layers=_count_layers(shapes, r"decoder\.layers\.(\d+)\."),
        heads=heads,
        head_size=inner // heads,
        ffn=ffn,
    )


def open_clip_config(name: str) -> dict[str, Any]:
    """Return the configuration of an open_clip model with a plain ViT image tower. Raises CheckpointError."""
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise CheckpointError(f"encoder must be an open_clip model, got {name!r}; open_clip.list_models() lists them")
    if "timm_model_name" in config["vision_cfg"] or not isinstance(config["vision_cfg"].get("layers"), int):
        raise CheckpointError(f"the image tower of encoder {name} must be a plain ViT; use, for example, ViT-B-16")
    if "hf_model_name" in config["text_cfg"]:
        raise CheckpointError(f"the text tower of encoder {name} must be open_clip's own; use, for example, ViT-B-16")
    return dict(config)


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"a SequencePAR checkpoint must have {name}, got none; see docs/checkpoints.md")
    if len(shapes[name]) != dimensions:
        raise CheckpointError(f"{name} must have {dimensions} dimensions, got shape {shapes[name]}")
    return shapes[name]


def _count_layers(shapes: Shapes, pattern: str) -> int:
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    if found != set(range(len(found))):
        missing = min(set(range(max(found))) - found)
        prefix = pattern.split("(")[0].replace("\\", "")
        raise CheckpointError(f"the checkpoint must have layer {missing} of {prefix}, got none; copy it again")
    return len(found)


def _decoder_heads(inner: int, decoder_heads: int | None) -> int:
    heads = decoder_heads
    if heads is None:
        if inner % _PUBLISHED_HEAD_SIZE or inner == _PUBLISHED_HEAD_SIZE:
            raise CheckpointError(
                f"the decoder's inner width must be two or more heads of 64 channels, got {inner}; pass --decoder-heads"
            )
        heads = inner // _PUBLISHED_HEAD_SIZE
    if heads < 1 or inner % heads:
        raise CheckpointError(
            f"decoder heads must divide the inner width {inner}, got {heads}; pass another --decoder-heads"
        )
    return heads
