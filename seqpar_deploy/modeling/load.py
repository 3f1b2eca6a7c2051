"""Load a checkpoint file as a network, for all commands that take one. torch is imported at the first call."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendUnavailableError, CheckpointError, LabelSetError
from seqpar_deploy.preprocess import default_columns
from seqpar_deploy.resources import label_set_names, load_label_set
from seqpar_deploy.vocab import LabelSet

if TYPE_CHECKING:
    from torch import Tensor

    from seqpar_deploy.modeling.checkpoint import Checkpoint
    from seqpar_deploy.modeling.sequencepar import SequencePAR


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """Hold a checkpoint's network, in float32 and evaluation mode.

    Attributes:
        network: The network.
        token_table: The embedding of every token, (V, d).
        label_set: The label set it was trained on.
        file: The checkpoint's file name.
        sha256: SHA-256 of the checkpoint, in hexadecimal.
        weights: The set of weights that was chosen by name. None: the default. Default: None.
        redefined: "trimmed" if the network was trained on untrimmed crops, and now reads trimmed ones. Default: None.
    """

    network: SequencePAR
    token_table: Tensor
    label_set: LabelSet
    file: str
    sha256: str
    weights: str | None = None
    redefined: str | None = None


@contextlib.contextmanager
def export_extra() -> Iterator[None]:
    """Import PyTorch in this block. Raises BackendUnavailableError, naming the extra, if a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f"{error.name}, which checkpoints need, is not installed; pip install 'seqpar-deploy[export]'"
        ) from None


def load_network(
    path: str | Path,
    *,
    label_set: LabelSet | str | Path | None = None,
    sentences: bool = False,
    bundle: Bundle | None = None,
    encoder: str | None = None,
    decoder_heads: int | None = None,
    weights: str | None = None,
    device: str = "cpu",
    keep_text_tower: bool = False,
) -> LoadedNetwork:
    """Load a checkpoint and compute its token table.

    Args:
        path: A published `.pth`, or a `.safetensors`.
        label_set: The label set it was trained on: a `LabelSet`, a name (`peta`) or the path of a TOML file.
            Default: the one in the checkpoint.
        sentences: Use the label set's full sentences as phrases, for a checkpoint that was trained on those.
            Default: False.
        bundle: A bundle exported from this checkpoint. Its label set is used. Default: none.
        encoder: The open_clip model name, if the encoder is not an OpenAI CLIP ViT. Default: derived from the weights.
        decoder_heads: Decoder heads, if they do not have 64 channels each. Default: derived from the weights.
        weights: The set of weights to use, for example "model_ema", if the file holds several. Default: the set that
            the bundle was exported from, else the trained weights.
        device: `cpu` or `cuda`. Default: `cpu`.
        keep_text_tower: Keep the text tower, a quarter of the weights. With the token table, inference does not need
            it. Default: False.

    Returns:
        The network and its token table.

    Raises:
        BackendUnavailableError: PyTorch or another library of the export extra is missing.
        CheckpointError: The file cannot be read, or does not match the label set or the bundle.
        LabelSetError: The label set cannot be found, or none was given and the checkpoint has none.
    """
    if isinstance(label_set, (str, Path)):
        label_set = load_label_set(label_set, sentences=sentences)  # first, since the rest takes minutes
    with export_extra():
        import torch

        from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint

    if bundle is not None and weights is None:
        weights = bundle.manifest["checkpoint"].get("weights")
    checkpoint = load_checkpoint(path, weights=weights)
    if bundle is not None:
        _check_exported(checkpoint, bundle)
        label_set = bundle.label_set
    if label_set is None:
        label_set = _carried_label_set(checkpoint, sentences=sentences)
    network = build_model(checkpoint, label_set, encoder=encoder, decoder_heads=decoder_heads)
    file, sha256, chosen = checkpoint.path.name, checkpoint.sha256, checkpoint.weights
    del checkpoint  # a second copy of the weights
    network = network.to(device)
    with torch.inference_mode():
        token_table = network.token_table(label_set.phrases).clone()
    if not keep_text_tower:
        clip = network.clip_model
        del clip.transformer, clip.token_embedding, clip.positional_embedding, clip.ln_final, clip.text_projection
    loaded = LoadedNetwork(
        network=network, token_table=token_table, label_set=label_set, file=file, sha256=sha256, weights=chosen
    )
    redefined = bundle is not None and bundle.manifest["checkpoint"].get("redefined")
    return redefined_as_trimmed(loaded) if redefined else loaded


def redefined_as_trimmed(loaded: LoadedNetwork) -> LoadedNetwork:
    """Make a network that was trained on untrimmed crops read trimmed ones, of the default widths.

    A network that was trained on these widths is returned unchanged. Raises CheckpointError if it has other widths, or
    if its label set pads crops differently.
    """
    architecture = loaded.network.architecture
    columns = default_columns(architecture.grid)
    if loaded.label_set.preprocessing.pad != "square":
        raise CheckpointError(
            f"{loaded.file}: crops must be padded to squares to be trimmed, got pad = "
            f"{loaded.label_set.preprocessing.pad!r} in its label set; export it without --trim"
        )
    if architecture.columns == columns:
        return loaded
    if architecture.columns:
        raise CheckpointError(
            f"{loaded.file} must read whole squares to be redefined as trimmed, got a checkpoint that was trained on "
            f"{list(architecture.columns)} patch columns; export it without --trim"
        )
    loaded.network.architecture = dataclasses.replace(architecture, columns=columns)
    return dataclasses.replace(loaded, redefined="trimmed")


def _check_exported(checkpoint: Checkpoint, bundle: Bundle) -> None:
    exported = bundle.manifest["checkpoint"]
    if checkpoint.sha256 != exported["sha256"]:
        raise CheckpointError(
            f"the bundle's checkpoint must be {exported['file']} with sha256 {exported['sha256'][:12]}.., got "
            f"{checkpoint.path.name} with {checkpoint.sha256[:12]}..; pass the checkpoint it was exported from"
        )


def _carried_label_set(checkpoint: Checkpoint, *, sentences: bool) -> LabelSet:
    name, known = checkpoint.label_set_name, label_set_names()
    if checkpoint.label_set is not None:
        if sentences:
            raise LabelSetError(
                f"{checkpoint.path.name} contains its label set, with the phrases it was trained on; "
                "leave out --sentences, or pass --label-set too"
            )
        return checkpoint.label_set
    if name in known:
        return load_label_set(name, sentences=sentences)
    stored = "has no label set" if name is None else f"was trained on the unknown label set {name!r}"
    raise LabelSetError(
        f"{checkpoint.path.name} {stored}; pass --label-set, one of {', '.join(known)} or a TOML file of your own"
    )
