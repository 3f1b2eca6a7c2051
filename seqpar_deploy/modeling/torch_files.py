"""Read files of `torch.save` without running any code they contain, and name the others for what they are.

A published checkpoint is a pickle of tensors and two NumPy scalars, its validation scores. torch's restricted unpickler
reads the tensors. The settings that training code keeps beside them, of a few well-known classes, are mapped to
harmless replacements, so not even NumPy's reconstruction code runs. A file with any other name is rejected.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.file_kinds import is_tar, kind_of_file

_log = logging.getLogger(__name__)

_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # the number that begins a file of torch.save before PyTorch 1.6
_LARGEST_PICKLE = 64_000_000  # bytes; the tensors of PyTorch's format lie outside it
_ARRAY = "a NumPy array"
_MOST_OPCODES = 200_000  # a checkpoint of a thousand tensors has 20,000


class _Settings:
    """Replace a class of settings: accept a pickle's arguments and discard them."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def _number(*_: object) -> None:
    """Replace NumPy's reconstruction of scalars: the validation scores beside a state dict are not needed."""


def _encode(*_: object) -> bytes:
    """Replace _codecs.encode, which protocol-2 pickles call for bytes."""
    return b""


def _new_dict(*_: object) -> dict[Any, Any]:
    return {}


_STAND_INS: list[Any] = [
    (_encode, "_codecs.encode"),
    (_new_dict, "collections.defaultdict"),
    *(
        (stand_in, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, stand_in in (("scalar", _number), ("_reconstruct", _Settings))
    ),
    *(
        (_Settings, name)
        for name in (
            *("numpy.dtype", "numpy.dtypes.Float64DType", "numpy.dtypes.Float32DType", "numpy.ndarray"),
            *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta"),
            *("datetime.date", "builtins.list", "builtins.dict", "builtins.int", "builtins.float"),
            *(
                f"{module}.{name}"
                for module in ("pathlib", "pathlib._local")
                for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
            ),
        )
    ),
]


def read_torch_file(path: Path) -> object:
    """Return the content of a file of `torch.save`, in main memory.

    Raises:
        CheckpointError: The file is of another kind, is damaged, or contains other objects than tensors and settings.
    """
    try:
        if (kind := kind_of_file(path)) is not None:
            raise _no_checkpoint(path, *kind)
        with torch.serialization.safe_globals(_STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old formats
            # Memory mapping avoids loading a 2 GB checkpoint at once. Only torch's zip format can be mapped.
            mapped = zipfile.is_zipfile(path)
            if path.suffix == ".safetensors":  # torch believes this name more than the content
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    except Exception as error:  # torch.load raises almost any exception on damaged input
        _log.debug("torch cannot read %s", path, exc_info=error)
        raise _refusal(path) from None


def _no_checkpoint(path: Path, kind: str, fix: str) -> CheckpointError:
    return CheckpointError(f"{path} must be a PyTorch checkpoint (.pth or .safetensors), got {kind}; {fix}")


def _refusal(path: Path) -> CheckpointError:
    """Return the error for a file that torch cannot read."""
    if is_tar(path):
        return _no_checkpoint(path, "a tar archive", "unpack it first")
    try:
        found = _scan(path)
    except (ValueError, OSError, KeyError, RecursionError, zipfile.BadZipFile, NotImplementedError) as error:
        _log.debug("no complete pickle in %s", path, exc_info=error)
        return _no_checkpoint(path, "another file or a damaged one", "copy or download it again")
    foreign = [name for name in found.imports if not _is_known(name)]
    if found.kind == _ARRAY:
        return _no_checkpoint(path, f"a pickle of {_ARRAY}", "pass a state dict that torch.save wrote")
    if foreign and any(name.startswith("torch.nn.modules.") for name in found.imports):
        return CheckpointError(
            f"{path} must contain tensors and numbers only, got a whole model of class {found.kind}, which could run "
            "code; save its weights alone, as torch.save(model.state_dict(), FILE)"
        )
    if foreign:
        return CheckpointError(
            f"{path} must contain tensors and numbers only, got {foreign[0]}, which could run code; do not use it, or "
            "have its author save the state dict alone"
        )
    if not found.by_torch or found.kind not in ("dict", "collections.OrderedDict"):
        return _no_checkpoint(path, f"a pickle of {found.kind}", "pass a state dict that torch.save wrote")
    if found.protocol > 2:
        return _no_checkpoint(path, f"one of pickle protocol {found.protocol}", "save it with torch.save's default, 2")
    return _no_checkpoint(path, "a damaged one", "copy or download it again")


def _is_known(name: str) -> bool:
    harmless = {known for _, known in _STAND_INS} | {"collections.OrderedDict", "collections.Counter", "builtins.set"}
    tensors = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.nn.parameter.Parameter", "torch.Size")
    return name in harmless or name.startswith(tensors) or (name.startswith("torch.") and name.count(".") == 1)


@dataclasses.dataclass(frozen=True)
class _Pickle:
    imports: list[str]
    kind: str  # of the object: the class, or its name in words
    protocol: int
    by_torch: bool


def _scan(path: Path) -> _Pickle:
    """Read the opcodes of a pickle. Nothing is executed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.split("/")[-1] == "data.pkl")
            if archive.getinfo(name).file_size > _LARGEST_PICKLE:
                raise ValueError("the pickle is too large to be one of weights")
            return _scan_pickle(io.BytesIO(archive.read(name)), by_torch=True)
    with path.open("rb") as file:  # read here, as an opcode may claim any length, for which a file would take memory
        content = io.BytesIO(file.read(_LARGEST_PICKLE))
    by_torch = _MAGIC in content.getbuffer()[:64].tobytes()
    for _ in range(3 if by_torch else 0):  # magic number, version, byte order
        for _opcode in pickletools.genops(content):
            pass
    return _scan_pickle(content, by_torch=by_torch)


def _scan_pickle(file: IO[bytes], *, by_torch: bool) -> _Pickle:
    imports: list[str] = []
    texts: list[str] = []  # on the stack, more or less: STACK_GLOBAL takes the last two
    memo: dict[object, str] = {}
    opcodes: list[str] = []
    protocol, stored = 0, 0
    for number, (opcode, value, _) in enumerate(pickletools.genops(file)):
        if number == _MOST_OPCODES:
            raise ValueError("the pickle is too long to be one of weights")
        name = opcode.name
        if name == "PROTO" and isinstance(value, int):
            protocol = value
        elif name in ("GLOBAL", "INST"):
            imports.append(_modern(str(value)))
        elif name == "STACK_GLOBAL":
            imports.append(_modern(" ".join(texts[-2:])))
        elif "UNICODE" in name:
            texts.append(str(value))
        elif "GET" in name and value in memo:
            texts.append(memo[value])
        elif name in _STORES:
            if opcodes and "UNICODE" in opcodes[-1]:
                memo[stored if name == "MEMOIZE" else value] = texts[-1]
            stored += 1
        if name not in ("PROTO", "FRAME", "STOP", *_STORES):
            opcodes.append(name)
    return _Pickle(imports, _kind(opcodes, imports), protocol, by_torch)


_STORES = ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT")


def _modern(name: str) -> str:
    """Return `module.name` as Python 3 writes it."""
    module, _, rest = name.partition(" ")
    return f"{ {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}.get(module, module) }.{rest}".replace(" ", "")


def _kind(opcodes: list[str], imports: list[str]) -> str:
    """Return the type of the object, which the first opcodes make, or the last one of a tuple."""
    first, last = (opcodes[0], opcodes[-1]) if opcodes else ("", "")
    if first == "GLOBAL" or (imports and "UNICODE" in first and "STACK_GLOBAL" in opcodes[:3]):
        return _ARRAY if imports[0].startswith("numpy.") else imports[0]
    if "TUPLE" in last:
        return "a tuple"
    for name in ("DICT", "LIST", "SET"):
        if name in first or opcodes[:2] == ["MARK", name]:
            return {"DICT": "dict", "LIST": "a list", "SET": "a set"}[name]
    return "a text" if "UNICODE" in first else "a number" if len(opcodes) == 1 else "an object"
