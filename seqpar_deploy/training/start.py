"""Builds the network at the start of a run, with random weights, CLIP's, or those of a SequencePAR checkpoint."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import open_clip
import torch

from seqpar_deploy.errors import CheckpointError, RecipeError
from seqpar_deploy.modeling.architecture import Architecture, open_clip_config
from seqpar_deploy.modeling.checkpoint import Checkpoint, build_model, load_checkpoint, network_of
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.preprocess import default_columns, wrong_columns
from seqpar_deploy.training.recipe import Model
from seqpar_deploy.vocab import LabelSet

_OPENAI = ("input_resolution", "context_length", "vocab_size")  # additional keys in OpenAI's files
_FIXED = ("bos_embedding", "eos_embedding", "pad_embedding", "decoder.pos_emb.weight")  # never trained

_log = logging.getLogger(__name__)


def new_model(model: Model, label_set: LabelSet, *, seed: int) -> SequencePAR:
    """Build the network of a recipe.

    Args:
        model: The network in the recipe.
        label_set: The attributes.
        seed: Seed of the weights that are not pretrained.

    Returns:
        The network, ready to train.

    Raises:
        RecipeError: The architecture in the recipe is invalid.
        CheckpointError: The pretrained weights cannot be found, downloaded or read, or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made = network_of(trimmed(_architecture(model, len(label_set)), model))
        except CheckpointError as error:
            raise RecipeError(f"[model.architecture] of the recipe must describe a network: {error}") from None
    if model.pretrained:
        _load_clip(made, model)
    return made


def model_from_checkpoint(checkpoint: Checkpoint, label_set: LabelSet, model: Model) -> SequencePAR:
    """Build a network with the weights of a SequencePAR checkpoint, ready to train.

    Of the recipe's `model`, only the trimming counts. A checkpoint of untrimmed crops can go on with trimmed ones.

    Raises:
        CheckpointError: The checkpoint does not fit the label set.
        RecipeError: The checkpoint reads crops of other widths than the recipe.
    """
    made = build_model(checkpoint, label_set)
    made.architecture = trimmed(made.architecture, model)
    ids = open_clip.tokenize(list(label_set.phrases), context_length=made.clip_model.context_length).unique()
    if (made.clip_model.token_embedding.weight[ids] == 0).all(dim=1).any():
        raise CheckpointError(
            f"{checkpoint.path} must contain embeddings of all the words in {label_set.name}'s phrases, got only some; "
            "start from a checkpoint that was trained on this label set"
        )
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name not in _FIXED)
    return made


def trimmed(architecture: Architecture, model: Model) -> Architecture:
    """Return an architecture with the widths of a recipe's model. Raises RecipeError if it has others."""
    wanted: tuple[int, ...] = ()
    if model.trim:
        stated = (model.architecture or {}).get("columns")
        wanted = tuple(stated or architecture.columns or default_columns(architecture.grid))
        if problem := wrong_columns(wanted, architecture.grid):
            raise RecipeError(f"[model.architecture] columns must be {problem}, got {list(wanted)}")
    if architecture.columns and wanted != architecture.columns:
        got = f"columns {list(wanted)}" if wanted else "trim = false"
        raise RecipeError(
            f"[model] of the recipe must have trim = true with columns {list(architecture.columns)}, which the "
            f"checkpoint was made for, got {got}; change the recipe"
        )
    return dataclasses.replace(architecture, columns=wanted)


def _architecture(model: Model, attributes: int) -> Architecture:
    if model.architecture is not None:
        architecture = Architecture.from_dict({**model.architecture, "attributes": attributes})
        _check_heads(architecture)
        return architecture
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


def _check_heads(architecture: Architecture) -> None:
    """Check that heads divide the width. open_clip would widen them, or fail without the name of the field."""
    vision, text = architecture.vision, architecture.text
    for tower, width, divisor, field in (
        ("vision", vision.get("width"), vision.get("head_width", 64), "head_width"),
        ("text", text.get("width"), text.get("heads"), "heads"),
    ):
        if isinstance(width, int) and isinstance(divisor, int) and (divisor < 1 or width % divisor):
            raise CheckpointError(f"{tower}.width must be a multiple of {tower}.{field}, got {width} and {divisor}")


def _load_clip(made: SequencePAR, model: Model) -> None:
    """Load CLIP's weights from a local file, or through open_clip's registry, which downloads them once."""
    path = Path(model.pretrained)
    if not path.is_file():
        tags = open_clip.list_pretrained_tags_by_model(model.encoder)
        if model.pretrained not in tags:
            raise CheckpointError(
                f"pretrained weights of {model.encoder} must be a file or one of {', '.join(tags)}, "
                f"got {model.pretrained!r}"
            )
        try:
            path = Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model.encoder, model.pretrained)))
        except Exception as error:  # network, client of the hub or disk
            _log.debug("download of %s failed", model.pretrained, exc_info=error)
            raise CheckpointError(
                f"the {model.pretrained} weights of {model.encoder} cannot be downloaded ({type(error).__name__}); "
                "check the network, or set pretrained to a local file"
            ) from None
    weights = {name: value for name, value in load_checkpoint(path).state_dict.items() if "ln_post" not in name}
    for name, value in made.clip_model.state_dict().items():
        if name in weights and weights[name].shape != value.shape:
            raise CheckpointError(
                f"{name} in {path} must have shape {tuple(value.shape)} for {model.encoder}, "
                f"got {tuple(weights[name].shape)}"
            )
    if not made.architecture.quick_gelu and any(name in weights for name in _OPENAI):
        raise CheckpointError(
            f"encoder of {path} must use QuickGELU as OpenAI's networks, got {model.encoder}; set the encoder to "
            f"{model.encoder}-quickgelu"
        )
    result = made.clip_model.load_state_dict(weights, strict=False)
    unknown = [name for name in result.unexpected_keys if name not in _OPENAI]
    if result.missing_keys or unknown:
        raise CheckpointError(
            f"{path} must contain the weights of {model.encoder}, got {len(result.missing_keys)} weights missing "
            f"({', '.join(result.missing_keys[:2])}) and {len(unknown)} unknown ({', '.join(unknown[:2])})"
        )
