"""A checkpoint file as a network that runs, for every command that takes one. torch is imported when it is called."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendUnavailableError, CheckpointError, LabelSetError
from seqpar_deploy.resources import label_set_names, load_label_set
from seqpar_deploy.vocab import LabelSet

if TYPE_CHECKING:
    from torch import Tensor

    from seqpar_deploy.modeling.checkpoint import Checkpoint
    from seqpar_deploy.modeling.sequencepar import SequencePAR


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A checkpoint's network in float32 and evaluation mode, and what belongs to it."""

    network: SequencePAR
    token_table: Tensor  # (V, d): the embedding of every token
    label_set: LabelSet
    file: str  # the checkpoint's name
    sha256: str  # of the checkpoint


@contextlib.contextmanager
def export_extra() -> Iterator[None]:
    """Import PyTorch and its like in this block. Raises BackendUnavailableError that names the extra to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f"checkpoints need {error.name}, which is not installed; pip install 'seqpar-deploy[export]'"
        ) from None


def load_network(
    path: str | Path,
    *,
    label_set: LabelSet | str | Path | None = None,
    sentences: bool = False,
    bundle: Bundle | None = None,
    encoder: str | None = None,
    decoder_heads: int | None = None,
    device: str = "cpu",
    keep_text_tower: bool = False,
) -> LoadedNetwork:
    """Load a checkpoint and compute its token table.

    Args:
        path: A `.pth` as published or a `.safetensors`.
        label_set: The label set it was trained on: itself, a name (`peta`) or a TOML file. Default: the one the
            checkpoint carries.
        sentences: Take the label set's full sentences as phrases, for a checkpoint that was trained on those.
        bundle: The bundle that was exported from it, which gives the label set.
        encoder: The open_clip model, for encoders that are no OpenAI CLIP ViT.
        decoder_heads: Number of decoder heads, if they do not have 64 channels each.
        device: `cpu` or `cuda`.
        keep_text_tower: Keep the text tower, a quarter of the weights, which nothing needs once there is a token table.

    Raises:
        BackendUnavailableError: PyTorch or another library of the export extra is missing.
        CheckpointError: the file cannot be read, or does not fit the label set, or the bundle is of another.
        LabelSetError: no such label set, or none was given and the checkpoint carries none.
    """
    if isinstance(label_set, (str, Path)):
        label_set = load_label_set(label_set, sentences=sentences)  # before minutes of work
    with export_extra():
        import torch

        from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint

    checkpoint = load_checkpoint(path)
    if bundle is not None:
        _check_exported(checkpoint, bundle)
        label_set = bundle.label_set
    if label_set is None:
        label_set = _carried_label_set(checkpoint, sentences=sentences)
    network = build_model(checkpoint, label_set, encoder=encoder, decoder_heads=decoder_heads)
    file, sha256 = checkpoint.path.name, checkpoint.sha256
    del checkpoint  # a second copy of the weights
    network = network.to(device)
    with torch.inference_mode():
        token_table = network.token_table(label_set.phrases).clone()
    if not keep_text_tower:
        clip = network.clip_model
        del clip.transformer, clip.token_embedding, clip.positional_embedding, clip.ln_final, clip.text_projection
    return LoadedNetwork(network=network, token_table=token_table, label_set=label_set, file=file, sha256=sha256)


def _check_exported(checkpoint: Checkpoint, bundle: Bundle) -> None:
    exported = bundle.manifest["checkpoint"]
    if checkpoint.sha256 != exported["sha256"]:
        raise CheckpointError(
            f"{checkpoint.path.name} has sha256 {checkpoint.sha256[:12]}.., the bundle was made of {exported['file']} "
            f"with {exported['sha256'][:12]}..; pass the checkpoint it was exported from"
        )


def _carried_label_set(checkpoint: Checkpoint, *, sentences: bool) -> LabelSet:
    name, known = checkpoint.label_set_name, label_set_names()
    if checkpoint.label_set is not None:
        if sentences:
            raise LabelSetError(
                f"{checkpoint.path.name} carries its label set, with the phrases it was trained on; "
                "leave out --sentences, or pass --label-set too"
            )
        return checkpoint.label_set
    if name in known:
        return load_label_set(name, sentences=sentences)
    trained_on = "does not say what it was trained on" if name is None else f"was trained on {name!r}, which is unknown"
    raise LabelSetError(
        f"{checkpoint.path.name} {trained_on}; pass --label-set, one of {', '.join(known)} or a TOML file of your own"
    )
