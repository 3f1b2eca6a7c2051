"""What a training starts from: random weights, CLIP's, or a SequencePAR checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch

from seqpar_deploy.errors import CheckpointError, RecipeError
from seqpar_deploy.modeling.architecture import Architecture, open_clip_config
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, network_of
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.training.recipe import Model
from seqpar_deploy.vocab import LabelSet

_OPENAI = ("input_resolution", "context_length", "vocab_size")  # beside the weights in OpenAI's files
_FIXED = ("bos_embedding", "eos_embedding", "pad_embedding", "decoder.pos_emb.weight")  # never trained


def new_model(model: Model, label_set: LabelSet, *, seed: int) -> SequencePAR:
    """A network as the recipe describes it; what is not pretrained is random, reproducible from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = network_of(_architecture(model, len(label_set)))
        except CheckpointError as error:
            raise RecipeError(f"the recipe's [model.architecture] is not one: {error}") from None
    if model.pretrained:
        _load_clip(made, model)
    return made


def model_from_checkpoint(path: str | Path, label_set: LabelSet) -> SequencePAR:
    """A network with a SequencePAR checkpoint's weights, to go on from. Raises CheckpointError."""
    made = build_model(load_checkpoint(path), label_set)
    ids = open_clip.tokenize(list(label_set.phrases), context_length=made.clip_model.context_length).unique()
    if (made.clip_model.token_embedding.weight[ids] == 0).all(dim=1).any():
        raise CheckpointError(
            f"{path} was stored without the words of {label_set.name}'s phrases; start from a checkpoint that was "
            "trained on this label set"
        )
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name not in _FIXED)
    return made


def _architecture(model: Model, attributes: int) -> Architecture:
    if model.architecture is not None:
        return Architecture.from_dict({**model.architecture, "attributes": attributes})
    config = open_clip_config(model.encoder)
    quick_gelu = bool(config.get("quick_gelu", False)) or model.pretrained == "openai"
    vision: dict[str, Any] = dict(config["vision_cfg"])
    return Architecture(
        attributes=attributes,
        embed_dim=config["embed_dim"],
        vision=vision,
        text=dict(config["text_cfg"]),
        quick_gelu=quick_gelu,
    )


def _load_clip(made: SequencePAR, model: Model) -> None:
    """CLIP's weights from a local file, or through open_clip's registry, which downloads them once."""
    path = Path(model.pretrained)
    if not path.is_file():
        tags = open_clip.list_pretrained_tags_by_model(model.encoder)
        if model.pretrained not in tags:
            raise CheckpointError(
                f"no CLIP weights {model.pretrained!r} for {model.encoder}: neither a file nor one of {', '.join(tags)}"
            )
        try:
            path = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model.encoder, model.pretrained)))
        except Exception as error:  # whatever the network, the hub's client or the disk has to say
            raise CheckpointError(
                f"the {model.pretrained} weights of {model.encoder} cannot be downloaded: {str(error)[:200]}; "
                "name a local file as pretrained"
            ) from None
    weights = {name: value for name, value in load_checkpoint(path).state_dict.items() if "ln_post" not in name}
    for name, value in made.clip_model.state_dict().items():
        if name in weights and weights[name].shape != value.shape:
            raise CheckpointError(
                f"{path} does not fit {model.encoder}: {name} has shape {tuple(weights[name].shape)}, "
                f"wanted {tuple(value.shape)}"
            )
    if not made.architecture.quick_gelu and any(name in weights for name in _OPENAI):
        raise CheckpointError(
            f"{path} is OpenAI's, whose networks use QuickGELU, and {model.encoder} does not; "
            f"name the encoder {model.encoder}-quickgelu"
        )
    result = made.clip_model.load_state_dict(weights, strict=False)
    unknown = [name for name in result.unexpected_keys if name not in _OPENAI]
    if result.missing_keys or unknown:
        raise CheckpointError(
            f"{path} does not fit {model.encoder}: {len(result.missing_keys)} weights missing "
            f"({', '.join(result.missing_keys[:2])}), {len(unknown)} unknown ({', '.join(unknown[:2])})"
        )
