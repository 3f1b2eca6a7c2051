"""Reading SequencePAR checkpoints, published `.pth` or safetensors, without running anything they contain.

A published checkpoint is a pickle of tensors and, beside them, two NumPy scalars (its validation scores). torch's
restricted unpickler reads tensors; the few NumPy names are replaced by harmless stand-ins of our own, so that not even
NumPy's reconstruction code runs. Every other name in the file is refused.
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

_STATE_DICT = "model_state_dict"  # its key in a published checkpoint
_CLIP_STATE_DICT = "state_dict"  # its key in a checkpoint of open_clip's own training
_METADATA = "seqpar"  # its key in our safetensors
_TOKEN_EMBEDDING = "clip_model.token_embedding.weight"
_TOKEN_ROWS = "clip_model.token_embedding.rows"  # ours: which rows are stored, where the rest are left out
_NOT_APPLIED = "clip_model.visual.ln_post."  # in published checkpoints, without effect on the model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state dict with published names, and where it came from. `metadata` is empty in published files."""

    state_dict: Mapping[str, Tensor]
    metadata: Mapping[str, Any]
    path: Path
    sha256: str

    @functools.cached_property
    def label_set(self) -> LabelSet | None:
        """The label set the file carries; None for a published file, and for one of ours from before 0.2, which holds
        the name and the phrases alone. Raises LabelSetError."""
        stored = self.metadata.get("label_set")
        if not isinstance(stored, dict):
            return None
        return LabelSet.from_dict(stored, source=f"label set in {self.path.name}")

    @property
    def label_set_name(self) -> str | None:
        """The name of the label set it was trained on, if the file has it."""
        stored = self.metadata.get("label_set")
        name = stored.get("name") if isinstance(stored, dict) else stored
        return name if isinstance(name, str) else None

    @property
    def phrases(self) -> Sequence[str]:
        """The phrases it was trained on; none for a file that does not have them."""
        return self.label_set.phrases if self.label_set else self.metadata.get("phrases", ())


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a `.pth` as published or a `.safetensors`. Raises CheckpointError."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; wanted a .pth or .safetensors file")
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
    """The network with a checkpoint's weights, float32, in evaluation mode.

    Raises CheckpointError if weights are missing, superfluous or of the wrong shape, or if the label set is not the
    one the checkpoint was trained on, as far as that shows: by its phrases in our own files, by its size in others.
    """
    state_dict = {name: value for name, value in checkpoint.state_dict.items() if not name.startswith(_NOT_APPLIED)}
    stored = checkpoint.metadata.get("architecture")
    if stored is not None:
        if encoder is not None or decoder_heads is not None:
            raise CheckpointError(f"{checkpoint.path.name} states its architecture; omit --encoder and --decoder-heads")
        architecture = Architecture.from_dict(stored)
    else:
        shapes = {name: tuple(value.shape) for name, value in state_dict.items()}
        architecture = architecture_from_shapes(shapes, encoder=encoder, decoder_heads=decoder_heads)
    if architecture.attributes != len(label_set):
        raise CheckpointError(
            f"{checkpoint.path.name} generates {architecture.attributes} attributes, label set {label_set.name} has "
            f"{len(label_set)}; name the label set it was trained on with --label-set"
        )
    _check_phrases(checkpoint, label_set)
    model = network_of(architecture)
    _check_fit(model.state_dict(), state_dict, checkpoint.path.name)
    model.load_state_dict(state_dict)  # copies into float32
    return model.eval().requires_grad_(False)


def network_of(architecture: Architecture) -> SequencePAR:
    """A network with fresh weights. Raises CheckpointError where the architecture describes none.

    If a CPU quota is in force, PyTorch takes no more threads than it allows from here on.
    """
    if (limit := thread_limit()) is not None:
        torch.set_num_threads(min(limit, torch.get_num_threads()))
    try:
        return SequencePAR(architecture)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the architecture describes no network: {said or type(error).__name__}") from None


def _check_phrases(checkpoint: Checkpoint, label_set: LabelSet) -> None:
    """Raise CheckpointError if the file has the phrases it was trained on, and they are others."""
    for trained, got in zip(checkpoint.phrases, label_set.phrases, strict=False):
        if trained != got:
            raise CheckpointError(
                f"{checkpoint.path.name} was trained on the phrase {trained!r}, label set {label_set.name} gives "
                f"{got!r}; pass the --label-set it was trained on, with or without --sentences as then"
            )


def save_checkpoint(
    path: str | Path,
    model: SequencePAR,
    label_set: LabelSet,
    *,
    dtype: torch.dtype,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write safetensors that `load_checkpoint` reads: published names, and in the metadata the architecture, the whole
    label set, and what `metadata` adds.

    Rows of the text tower's token embedding that none of the label set's phrases use are left out. Atomic.
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
        raise CheckpointError(f"{path} is no whole safetensors file: {error}; copy it again") from None


class _NumpyDtype:
    """Stands in for numpy.dtype and its subclasses: takes what a pickle gives it and remembers nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _numpy_scalar(*_: object) -> None:
    """Stands in for NumPy's scalar reconstruction: the validation scores beside a state dict are not needed."""


def _encode(*_: object) -> bytes:
    """Stands in for _codecs.encode, by which protocol-2 pickles write bytes."""
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
            # Mapping the file keeps a 2 GB checkpoint out of memory; only torch's zip format can be mapped.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if foreign := re.search(r"global:? ([\w.]+)", str(error), re.IGNORECASE):
            _log.debug("torch refuses %s", path, exc_info=error)
            raise CheckpointError(
                f"{path} is refused: it names {foreign[1]}, which is more than tensors and numbers and could run code"
            ) from None
        raise _no_checkpoint(path, error) from None
    except Exception as error:  # torch.load raises nearly anything on damaged input
        raise _no_checkpoint(path, error) from None
    if isinstance(content, dict):
        state_dict = content.get(_STATE_DICT, content.get(_CLIP_STATE_DICT, content))
    else:
        state_dict = content
    if not isinstance(state_dict, dict) or not any(isinstance(value, Tensor) for value in state_dict.values()):
        raise CheckpointError(f"{path} holds no state dict; wanted {_STATE_DICT!r} as the published training saves it")
    if strange := [name for name, value in state_dict.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path} holds {strange[0]!r}, which is no tensor, in its state dict")
    return state_dict


def _no_checkpoint(path: Path, error: Exception) -> CheckpointError:
    _log.debug("torch cannot read %s", path, exc_info=error)
    return CheckpointError(
        f"{path} is not a PyTorch checkpoint, or is damaged; pass a .pth or .safetensors file, or copy it again"
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
        raise CheckpointError(f"{_TOKEN_ROWS} does not fit {_TOKEN_EMBEDDING}; the checkpoint is damaged")
    full = torch.zeros(_CLIP_VOCABULARY, stored.shape[1], dtype=stored.dtype)
    full[rows] = stored
    return {**state_dict, _TOKEN_EMBEDDING: full}


_CLIP_VOCABULARY = 49408


def _check_fit(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor], name: str) -> None:
    """Raise CheckpointError naming the first of the weights that are missing, superfluous or of the wrong shape."""
    missing = [key for key in wanted if key not in got]
    unknown = [key for key in got if key not in wanted]
    reshaped = [key for key in wanted if key in got and wanted[key].shape != got[key].shape]
    if missing:
        raise CheckpointError(f"{name} misses {_count(missing)}; it is no whole SequencePAR state dict")
    if unknown:
        raise CheckpointError(f"{name} has weights this network does not: {_count(unknown)}")
    if reshaped:
        key = reshaped[0]
        raise CheckpointError(
            f"{name}: {key} has shape {tuple(got[key].shape)}, wanted {tuple(wanted[key].shape)}; "
            "name the encoder it was trained with (--encoder)"
        )


def _count(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
