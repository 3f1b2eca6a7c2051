"""Read the content of checkpoint files: of `torch.save`, safetensors, and safetensors in several files."""

from __future__ import annotations

import json
import logging
import struct
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.file_kinds import kind_of_file
from seqpar_deploy.modeling.torch_files import read_torch_file

METADATA = "seqpar"  # key in this package's safetensors

_log = logging.getLogger(__name__)

_LONGEST_HEADER = 100_000_000  # bytes; the limit of the format
_LONGEST_INDEX = 10_000_000


def read_checkpoint_file(path: Path) -> tuple[object, dict[str, Any], list[Path]]:
    """Return the content of a checkpoint, the metadata of this package, if any, and the files that were read.

    The first bytes decide the format, not the file's name.

    Raises:
        CheckpointError: The file is missing, of another kind, or damaged.
    """
    try:
        if path.is_dir():
            return _read_folder(path)
        if not path.exists():
            link = ", got a link to nowhere" if path.is_symlink() else ", got no such file"
            raise CheckpointError(f"checkpoint must be a .pth or .safetensors file{link}: {path}; check the path")
        if not path.is_file():
            raise CheckpointError(f"checkpoint must be a .pth or .safetensors file, got a device or pipe: {path}")
        if path.name.endswith(".index.json"):
            return _read_shards(path)
        if _is_safetensors(path):
            content, metadata = _read_safetensors(path)
            return content, metadata, [path]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    return read_torch_file(path), {}, [path]


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do: with the length of a JSON text."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER:
        return True
    is_pickle = head.startswith((b"PK", b"\x80"))
    return path.suffix == ".safetensors" and not is_pickle and kind_of_file(path) is None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
            if not isinstance(metadata, dict) or not isinstance(metadata.get("phrases", []), list):
                raise ValueError(f"its {METADATA} metadata is malformed")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, OSError, RecursionError) as error:
        _log.debug("safetensors cannot read %s", path, exc_info=error)
        raise CheckpointError(
            f"{path} must be a complete safetensors file, got a damaged one{_missing_bytes(path)}; copy it again"
        ) from None


def _missing_bytes(path: Path) -> str:
    """Say how many bytes a safetensors file lacks, if its header can be read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole, size = 8 + length + max(ends, default=0), path.stat().st_size
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, RecursionError):
        return ""
    return f" (cut short: {size:,} of {whole:,} bytes)" if size < whole else ""


def _read_shards(index: Path) -> tuple[object, dict[str, Any], list[Path]]:
    """Read the files that an index names. They must lie beside it."""
    try:
        if index.stat().st_size > _LONGEST_INDEX:
            raise ValueError("it is too long")
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(weight_map.values()))
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise ValueError("it names files elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _log.debug("cannot read %s", index, exc_info=error)
        raise CheckpointError(
            f"{index} must list the files of a checkpoint, as weight_map, got another JSON text; download it again"
        ) from None
    content: dict[str, object] = {}
    for name in names:
        shard = index.with_name(name)
        if not shard.exists():
            raise CheckpointError(f"{index.name} needs {name} beside it, got no such file; download all {len(names)}")
        part = _read_safetensors(shard)[0] if _is_safetensors(shard) else read_torch_file(shard)
        if not isinstance(part, dict):
            raise CheckpointError(f"{shard} must hold a part of the state dict, got none; download it again")
        content |= part
    if missing := sorted(set(weight_map) - set(content)):
        raise CheckpointError(f"{index.name} lists {missing[0]}, but no file holds it; download all files again")
    return content, {}, [index, *(index.with_name(name) for name in names)]


def _read_folder(folder: Path) -> tuple[object, dict[str, Any], list[Path]]:
    """Read a folder with the index of a checkpoint in it. Raises CheckpointError, which names other folders."""
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) == 1:
        return _read_shards(indexes[0])
    names = {entry.name for entry in folder.iterdir()}
    if "manifest.json" in names:
        got, fix = "a bundle", "pass the checkpoint that it was exported from"
    elif ".metadata" in names or any(name.endswith(".distcp") for name in names):
        got, fix = (
            "a folder of torch.distributed.checkpoint",
            f"convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE.pth",
        )
    elif "zero_to_fp32.py" in names or any("model_states.pt" in name or "optim_states.pt" in name for name in names):
        got, fix = "a folder of DeepSpeed", "run its zero_to_fp32.py, and pass the file that it writes"
    elif {"data.pkl", "version"} <= names:
        got, fix = "an unpacked checkpoint", "pass the file as it was before unpacking"
    elif "saved_model.pb" in names:
        got, fix = "a TensorFlow model", "pass a PyTorch checkpoint"
    else:
        files = sorted(name for name in names if name.endswith((".pth", ".pt", ".bin", ".safetensors", ".ckpt")))
        got, fix = "a folder", f"pass a file in it, such as {files[0]}" if files else "check the path"
    raise CheckpointError(f"checkpoint must be a .pth or .safetensors file, got {got}: {folder}; {fix}")
