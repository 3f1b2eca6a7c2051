"""Read SequencePAR checkpoints, published `.pth` or safetensors, without running any code they contain.

A published checkpoint is a pickle of tensors and two NumPy scalars, its validation scores. torch's restricted unpickler
reads the tensors. The few NumPy names are mapped to harmless replacements, so not even NumPy's reconstruction code
runs. A file with any other name is rejected.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.files import replacing, sha256_of
from seqpar_deploy.machine import thread_limit
from seqpar_deploy.modeling.architecture import Architecture, architecture_from_shapes
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.vocab import LabelSet

_log = logging.getLogger(__name__)

_STATE_DICT = "model_state_dict"  # key in a published checkpoint
_CLIP_STATE_DICT = "state_dict"  # key in a checkpoint of open_clip's own training
_METADATA = "seqpar"  # key in this package's safetensors
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
        sha256: SHA-256 of the file, in hexadecimal.
    """

    state_dict: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    path: Path
    sha256: str

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


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint: a published `.pth`, or a `.safetensors`. Raises CheckpointError."""
    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"checkpoint must be a .pth or .safetensors file, got {got}: {path}; check the path")
    if path.suffix == ".safetensors":
        state_dict, metadata = _read_safetensors(path)
    else:
        state_dict, metadata = _read_pickle(path), {}
    return Checkpoint(state_dict=_expand_token_rows(state_dict), metadata=metadata, path=path, sha256=sha256_of(path))


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
    model = network_of(architecture)
    _check_fit(model.state_dict(), state_dict, checkpoint.path.name)
    model.load_state_dict(state_dict)  # copies into float32
    return model.eval().requires_grad_(False)


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
        safetensors.torch.save_file(state_dict, staging, metadata={_METADATA: json.dumps(values)})


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
            if not isinstance(metadata, dict) or not isinstance(metadata.get("phrases", []), list):
                raise ValueError(f"its {_METADATA} metadata is malformed")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, OSError, RecursionError) as error:
        _log.debug("safetensors cannot read %s", path, exc_info=error)
        raise CheckpointError(f"{path} must be a complete safetensors file, got a damaged one; copy it again") from None


class _NumpyDtype:
    """Replace numpy.dtype and its subclasses: accept a pickle's arguments and discard them."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _numpy_scalar(*_: object) -> None:
    """Replace NumPy's scalar reconstruction: the validation scores beside a state dict are not needed."""


def _encode(*_: object) -> bytes:
    """Replace _codecs.encode, which protocol-2 pickles call for bytes."""
    return b""


_STAND_INS: list[Any] = [
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    (_NumpyDtype, "numpy.dtype"),
    (_NumpyDtype, "numpy.dtypes.Float64DType"),
    (_NumpyDtype, "numpy.dtypes.Float32DType"),
    (_encode, "_codecs.encode"),
]


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            # Memory mapping avoids loading a 2 GB checkpoint at once. Only torch's zip format can be mapped.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if foreign := re.search(r"global:? ([\w.]+)", str(error), re.IGNORECASE):
            _log.debug("torch rejects %s", path, exc_info=error)
            raise CheckpointError(
                f"{path} must contain tensors and numbers only, got {foreign[1]}, which could run code; do not use it"
            ) from None
        raise _no_checkpoint(path, error) from None
    except Exception as error:  # torch.load raises almost any exception on damaged input
        raise _no_checkpoint(path, error) from None
    if isinstance(content, dict):
        state_dict = content.get(_STATE_DICT, content.get(_CLIP_STATE_DICT, content))
    else:
        state_dict = content
    if not isinstance(state_dict, dict) or not any(isinstance(value, Tensor) for value in state_dict.values()):
        raise CheckpointError(
            f"{path} must have a state dict, as {_STATE_DICT!r} of the published training, got none; "
            "pass the checkpoint that the training saved"
        )
    if strange := [name for name, value in state_dict.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path}: {strange[0]!r} of the state dict must be a tensor, got another type")
    return state_dict


def _no_checkpoint(path: Path, error: Exception) -> CheckpointError:
    _log.debug("torch cannot read %s", path, exc_info=error)
    return CheckpointError(
        f"{path} must be a PyTorch checkpoint, got another file or a damaged one; pass a .pth or .safetensors file, "
        "or copy it again"
    )


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


def _count(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
