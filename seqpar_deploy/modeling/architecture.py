"""The sizes of a SequencePAR network, as its weights show them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.vocab import FIRST_ATTRIBUTE

Shapes = Mapping[str, tuple[int, ...]]

_CLIP_HEAD_SIZE = 64  # every OpenAI CLIP tower
_PUBLISHED_HEAD_SIZE = 64  # of the decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything needed to build the network before its weights are loaded.

    `vision` and `text` are open_clip tower configurations. The decoder's width is the width CLIP projects to.
    """

    attributes: int  # n
    embed_dim: int  # d: CLIP's projection and the decoder's model width
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    quick_gelu: bool = True
    layers: int = 6  # L
    heads: int = 8
    head_size: int = 64
    ffn: int = 2048
    # Channels of a convolutional stem, before the tower's width; each halves the sides. The published model has none.
    stem: tuple[int, ...] = ()

    @property
    def vocabulary(self) -> int:
        """V = n + 3."""
        return FIRST_ATTRIBUTE + self.attributes

    @property
    def capacity(self) -> int:
        """C = n + 1: the longest sequence, `<bos>` included."""
        return self.attributes + 1

    @property
    def image_size(self) -> int:
        return int(self.vision["image_size"])

    @property
    def image_tokens(self) -> int:
        """N: patches and the class token."""
        return 1 + (self.image_size // int(self.vision["patch_size"])) ** 2

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        try:
            made = cls(**{**values, "stem": tuple(values.get("stem", ()))})
        except TypeError as error:
            raise CheckpointError(f"the checkpoint's stored architecture does not fit this package: {error}") from None
        for name in ("attributes", "embed_dim", "layers", "heads", "head_size", "ffn"):
            if type(size := getattr(made, name)) is not int or size < 1:
                raise CheckpointError(f"{name} of the stored architecture must be an integer above 0, got {size!r}")
        for key in [*made.vision, *made.text]:
            if key.startswith(("timm_", "hf_")):  # open_clip would fetch and build what they name
                raise CheckpointError(f"the stored architecture must not name a model from elsewhere, got {key!r}")
        halvings = len(made.stem) + 1
        if made.stem and made.vision.get("patch_size") != 2**halvings:
            raise CheckpointError(
                f"patch_size must be {2**halvings} for a stem of {len(made.stem)} channels, which halves the sides "
                f"{halvings} times, got {made.vision.get('patch_size')}"
            )
        return made


def vit_l_14(attributes: int) -> Architecture:
    """The published model: OpenAI CLIP ViT-L/14 at 224 px and a 6-layer decoder."""
    return Architecture(
        attributes=attributes,
        embed_dim=768,
        vision={"image_size": 224, "layers": 24, "width": 1024, "head_width": 64, "patch_size": 14},
        text={"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    )


def architecture_from_shapes(
    shapes: Shapes, *, encoder: str | None = None, decoder_heads: int | None = None
) -> Architecture:
    """Read an architecture off the shapes of a state dict with published names.

    `encoder` is an open_clip model name, for encoders whose head size or activation is not OpenAI CLIP's (weights do
    not show either). `decoder_heads` is needed where the published head size of 64 does not hold.

    Raises CheckpointError.
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
        raise CheckpointError(f"the image encoder must have a square number of positions and one more, got {positions}")

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
                f"the {tower} tower is {width} wide, no multiple of OpenAI CLIP's head size 64; "
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
    """The configuration of an open_clip model with a plain ViT image tower. Raises CheckpointError."""
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise CheckpointError(f"open_clip knows no model {name!r}; open_clip.list_models() lists the names")
    if "timm_model_name" in config["vision_cfg"] or not isinstance(config["vision_cfg"].get("layers"), int):
        raise CheckpointError(f"the image tower of {name} is no open_clip ViT; choose one such as ViT-B-16")
    if "hf_model_name" in config["text_cfg"]:
        raise CheckpointError(f"the text tower of {name} is not open_clip's own; choose a model such as ViT-B-16")
    return dict(config)


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"the checkpoint has no {name}, so it is no SequencePAR model; see docs/checkpoints.md")
    if len(shapes[name]) != dimensions:
        raise CheckpointError(f"{name} must have {dimensions} dimensions, got shape {shapes[name]}")
    return shapes[name]


def _count_layers(shapes: Shapes, pattern: str) -> int:
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    if found != set(range(len(found))):
        missing = min(set(range(max(found))) - found)
        raise CheckpointError(f"the checkpoint misses layer {missing} of {pattern.split('(')[0]}".replace("\\", ""))
    return len(found)


def _decoder_heads(inner: int, decoder_heads: int | None) -> int:
    heads = decoder_heads
    if heads is None:
        if inner % _PUBLISHED_HEAD_SIZE or inner == _PUBLISHED_HEAD_SIZE:
            raise CheckpointError(
                f"the decoder's inner width {inner} does not show its number of heads (published: 8 heads of 64); "
                "pass --decoder-heads"
            )
        heads = inner // _PUBLISHED_HEAD_SIZE
    if heads < 1 or inner % heads:
        raise CheckpointError(f"{heads} decoder heads do not divide the inner width {inner}")
    return heads
