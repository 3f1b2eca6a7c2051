"""Load SequencePAR checkpoints as networks, and write them.

`checkpoint_files.py` reads the file, without running any code it contains. `weights.py` finds the network's weights.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.files import replacing, sha256_of
from seqpar_deploy.machine import thread_limit
from seqpar_deploy.modeling.architecture import Architecture, architecture_from_shapes
from seqpar_deploy.modeling.checkpoint_files import METADATA, read_checkpoint_file
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.modeling.weights import find_weights
from seqpar_deploy.vocab import LabelSet

_TOKEN_EMBEDDING = "clip_model.token_embedding.weight"
_TOKEN_ROWS = "clip_model.token_embedding.rows"  # this package's: the stored rows, if the others are left out
_NOT_APPLIED = "clip_model.visual.ln_post."  # in published checkpoints, but not applied by the published model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Hold a state dict with published names, and its file.

    Attributes:
        state_dict: Tensors by published name.
        metadata: The metadata of this package's own files. Empty for published files.
        path: The checkpoint file.
        sha256: SHA-256 of the file, in hexadecimal. Of several files, that of their names and hashes.
        weights: The set of weights that was chosen by name. None: the default. Default: None.
    """

    state_dict: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    path: Path
    sha256: str
    weights: str | None = None

    @functools.cached_property
    def label_set(self) -> LabelSet | None:
        """The label set in the file. None for published files, and for this package's files from before 0.2, which
        have only its name and phrases. Raises LabelSetError."""
        stored = self.metadata.get("label_set")
        if not isinstance(stored, dict):
            return None
        return LabelSet.from_dict(stored, source=f"label set in {self.path.name}")

    @property
    def label_set_name(self) -> str | None:
        """The name of the label set it was trained on, or None if the file does not have it."""
        stored = self.metadata.get("label_set")
        name = stored.get("name") if isinstance(stored, dict) else stored
        return name if isinstance(name, str) else None

    @property
    def phrases(self) -> Sequence[str]:
        """The phrases it was trained on. Empty if the file does not have them."""
        return self.label_set.phrases if self.label_set else self.metadata.get("phrases", ())


def load_checkpoint(path: str | Path, *, weights: str | None = None) -> Checkpoint:
    """Read a checkpoint. Wrappers and prefixes around the network's own names are seen through.

    Args:
        path: A published `.pth`, a `.safetensors`, or the `.index.json` of one in several files.
        weights: The set of weights to use, for example "model_ema", if the file holds several. Default: the trained
            weights, or the only set.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: The file is of another kind, damaged, or holds no such weights.
    """
    path = Path(path)
    if (part := re.search(r"-0*(\d+)-of-0*(\d+)\.\w+$", path.name)) and part[2] != "1":
        raise CheckpointError(f"{path} is part {part[1]} of {part[2]} of a checkpoint; pass the .index.json beside it")
    content, metadata, files = read_checkpoint_file(path)
    state_dict = _expand_token_rows(find_weights(content, source=str(path), choice=weights))
    return Checkpoint(
        state_dict=state_dict, metadata=metadata, path=path, sha256=_sha256_of_all(files), weights=weights
    )


def _sha256_of_all(files: Sequence[Path]) -> str:
    """Return the SHA-256 of a file or, of several, that of their names and hashes."""
    if len(files) == 1:
        return sha256_of(files[0])
    lines = [f"{sha256_of(file)}  {file.name}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def build_model(
    checkpoint: Checkpoint,
    label_set: LabelSet,
    *,
    encoder: str | None = None,
    decoder_heads: int | None = None,
) -> SequencePAR:
    """Build the network with a checkpoint's weights, in float32 and evaluation mode.

    Raises CheckpointError if weights are missing, unknown or of the wrong shape, or if the label set does not match.
    The match is checked by its phrases for this package's own files, and by its size for others.
    """
    state_dict = {name: value for name, value in checkpoint.state_dict.items() if not name.startswith(_NOT_APPLIED)}
    stored = checkpoint.metadata.get("architecture")
    if stored is not None:
        if encoder is not None or decoder_heads is not None:
            raise CheckpointError(
                f"{checkpoint.path.name} stores its architecture; leave out --encoder and --decoder-heads"
            )
        architecture = Architecture.from_dict(stored)
    else:
        shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
        architecture = architecture_from_shapes(shapes, encoder=encoder, decoder_heads=decoder_heads)
    if architecture.attributes != len(label_set):
        raise CheckpointError(
            f"the label set of {checkpoint.path.name} must have {architecture.attributes} attributes, got "
            f"{label_set.name} with {len(label_set)}; pass the label set it was trained on with --label-set"
        )
    _check_phrases(checkpoint, label_set)
    _check_sizes(architecture, state_dict, checkpoint.path.name)
    model = network_of(architecture)
    model.load_state_dict(state_dict)  # copies into float32
    return model.eval().requires_grad_(False)


def _check_sizes(architecture: Architecture, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Raise CheckpointError if the weights are not those of the architecture, before any memory is taken for it.

    A file may store any sizes: 65,535 heads would take minutes and all memory of the machine.
    """
    layers = (architecture.layers, architecture.vision.get("layers"), architecture.text.get("layers"))
    if most := [number for number in layers if isinstance(number, int) and number > len(state_dict)]:
        raise CheckpointError(f"{name} must have the weights of {most[0]} layers, got {len(state_dict)} weights")
    with torch.device("meta"):
        expected = network_of(architecture).state_dict()
    _check_fit(expected, state_dict, name)


def network_of(architecture: Architecture) -> SequencePAR:
    """Build a network with new weights. Raises CheckpointError if the architecture is invalid.

    If there is a CPU quota, this limits PyTorch's threads to it.
    """
    if (limit := thread_limit()) is not None:
        torch.set_num_threads(min(limit, torch.get_num_threads()))
    try:
        return SequencePAR(architecture)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the stored architecture is invalid: {reason or type(error).__name__}") from None


def _check_phrases(checkpoint: Checkpoint, label_set: LabelSet) -> None:
    """Raise CheckpointError if the file has the phrases it was trained on, and they differ from the label set's."""
    for trained, got in zip(checkpoint.phrases, label_set.phrases, strict=False):
        if trained != got:
            raise CheckpointError(
                f"the label set of {checkpoint.path.name} must have the phrase {trained!r}, got {got!r} of "
                f"{label_set.name}; pass the --label-set it was trained on, and --sentences if it was trained on those"
            )


def save_checkpoint(
    path: str | Path,
    model: SequencePAR,
    label_set: LabelSet,
    *,
    dtype: torch.dtype,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a safetensors file that `load_checkpoint` reads, atomically.

    Tensors have their published names. The metadata has the architecture, the label set and `metadata`. Rows of the
    text tower's token embedding that no phrase of the label set uses are left out.
    """
    import open_clip

    state_dict = {
        name: value.detach().to(dtype if value.is_floating_point() else value.dtype).contiguous()
        for name, value in model.state_dict().items()
    }
    rows = open_clip.tokenize(list(label_set.phrases), context_length=model.clip_model.context_length).unique()
    state_dict[_TOKEN_ROWS] = rows
    state_dict[_TOKEN_EMBEDDING] = state_dict[_TOKEN_EMBEDDING][rows].contiguous()
    values = {
        "architecture": model.architecture.to_dict(),
        "label_set": label_set.to_dict(),
        **(metadata or {}),
    }
    with replacing(Path(path)) as staging:
        safetensors.torch.save_file(state_dict, staging, metadata={METADATA: json.dumps(values)})


def _expand_token_rows(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    if _TOKEN_ROWS not in state_dict:
        return state_dict
    rows, stored = state_dict.pop(_TOKEN_ROWS), state_dict.get(_TOKEN_EMBEDDING)
    if (
        stored is None
        or stored.ndim != 2
        or rows.dtype != torch.int64
        or rows.shape != stored.shape[:1]
        or not ((rows >= 0) & (rows < _CLIP_VOCABULARY)).all()
    ):
        raise CheckpointError(f"the checkpoint's {_TOKEN_ROWS} does not match {_TOKEN_EMBEDDING}; copy it again")
    full = torch.zeros(_CLIP_VOCABULARY, stored.shape[1], dtype=stored.dtype)
    full[rows] = stored
    return {**state_dict, _TOKEN_EMBEDDING: full}


_CLIP_VOCABULARY = 49408


def _check_fit(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], name: str) -> None:
    """Raise CheckpointError, naming the first weight that is missing, unknown or of the wrong shape."""
    missing = [key for key in expected if key not in got]
    unknown = [key for key in got if key not in expected]
    reshaped = [key for key in expected if key in got and expected[key].shape != got[key].shape]
    if missing:
        raise CheckpointError(f"{name} lacks {_count(missing)}; pass a complete SequencePAR checkpoint")
    if unknown:
        raise CheckpointError(f"{name} has unknown weights: {_count(unknown)}; pass a SequencePAR checkpoint")
    if reshaped:
        key = reshaped[0]
        raise CheckpointError(
            f"{name}: {key} must have shape {tuple(expected[key].shape)}, got {tuple(got[key].shape)}; "
            "name the encoder it was trained with (--encoder)"
        )
    for key, value in expected.items():
        kind = str(got[key].dtype).removeprefix("torch.")
        if value.is_floating_point() and kind in ("int8", "uint8"):
            raise CheckpointError(
                f"{name}: {key} must be of floating point, got {kind}; pass the checkpoint from before quantisation"
            )
        if value.is_floating_point() and not torch.isfinite(got[key].float()).all():
            raise CheckpointError(
                f"{name}: {key} must be finite, got NaN or infinity, as after a training that diverged; "
                "pass an earlier checkpoint"
            )


def _count(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
