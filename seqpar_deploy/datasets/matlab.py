"""MATLAB annotation files, read without trusting them: each error is one line that names the file and the variable."""

from __future__ import annotations

import dataclasses
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import DatasetError

_log = logging.getLogger(__name__)

# Of the MAT-file format, level 5.
_HEADER = 128  # bytes
_MATRIX, _COMPRESSED = 14, 15
_ELEMENTS = frozenset({*range(1, 8), 9, 12, 13, _MATRIX, _COMPRESSED, 16, 17, 18})
_MAX_DEPTH = 32
_MOST = 1 << 30  # bytes of a decompressed variable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """A value inside a MAT file; `where` names the file and the variable in errors.

    SciPy returns every MATLAB value as an array of at least two dimensions: a struct is a (1, 1) record array, a cell
    array is an object array, a text is an array of one string. Its option `simplify_cells` is not used, because it
    removes dimensions of size 1: a matrix of 26 rows and one column would pass for one row of 26 labels, and a text for
    a cell array.
    """

    array: npt.NDArray[Any]
    where: str

    def field(self, key: str | int) -> Value:
        """Return a struct's field by its name, or by its index if the published code uses only the index."""
        names = self.array.dtype.names
        if names is None or self.array.size != 1:
            raise self._refused("one struct", _kind(self.array))
        name = key if isinstance(key, str) else names[key] if key < len(names) else None
        if name is None or name not in names:
            raise self._refused(f"a struct with field {key}", f"fields {', '.join(names)}")
        return Value(array=np.asarray(self.array.flat[0][name]), where=f"{self.where}.{name}")

    def cell(self, index: int) -> Value:
        """Return a cell array's element, counted from 0. The array may be a row or a column."""
        cells = self._cells()
        if index >= len(cells):
            raise self._refused(f"a cell array of {index + 1} or more cells", len(cells))
        return Value(array=np.asarray(cells[index]), where=f"{self.where}{{{index + 1}}}")

    def texts(self) -> list[str]:
        """Return the strings of a cell array."""
        texts = []
        for number, cell in enumerate(self._cells(), start=1):
            text = np.asarray(cell)
            if text.dtype.kind != "U" or text.size > 1:
                raise Value(array=text, where=f"{self.where}{{{number}}}")._refused("text", _kind(text))
            texts.append(str(text.flat[0]).strip() if text.size else "")
        return texts

    def matrix(self, *, rows: int | None = None, columns: int | None = None) -> npt.NDArray[Any]:
        """Return the numbers, (rows, columns). None allows any count."""
        if self.array.dtype.kind not in "biuf" or self.array.ndim != 2:
            raise self._refused("a matrix of numbers", _kind(self.array))
        for got, expected, unit in zip(self.array.shape, (rows, columns), ("rows", "columns"), strict=True):
            if expected not in (None, got):
                raise self._refused(f"a matrix of {expected} {unit}", got)
        return self.array

    def indices(self, size: int) -> npt.NDArray[np.int64]:
        """Return MATLAB's indices 1 to `size`, from a row or a column, as Python's 0 to `size` - 1."""
        numbers = self.matrix().ravel()
        indices = numbers.astype(np.int64)
        if (indices != numbers).any() or (indices < 1).any() or (indices > size).any():
            raise self._refused(f"whole numbers from 1 to {size}", "others")
        return indices - 1

    def _cells(self) -> list[Any]:
        if self.array.dtype != object:
            raise self._refused("a cell array", _kind(self.array))
        return list(self.array.ravel())

    def _refused(self, expected: str, got: object) -> DatasetError:
        return DatasetError(f"{self.where} must be {expected}, got {got}; use the data set's original file")


def read_mat(path: Path, *variables: str) -> tuple[Value, ...]:
    """Read variables of a MAT file, in this order. Raises DatasetError that names the file."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DatasetError(f"reading {path.name} needs SciPy; pip install 'seqpar-deploy[eval]'") from None
    if not path.is_file():
        raise DatasetError(f"{path} does not exist")
    try:
        _check_elements(path.read_bytes())
        contents = loadmat(path, variable_names=variables)
    except NotImplementedError:
        raise DatasetError(
            f"{path} must be a MAT file of version 7 or older, got version 7.3; save it in MATLAB with the option -v7"
        ) from None
    except Exception as error:  # on damaged bytes SciPy raises exceptions of many kinds
        _log.debug("SciPy cannot read %s", path, exc_info=error)
        raise DatasetError(f"{path} must be a MAT file, got damaged or other content; download it again") from None
    if missing := [name for name in variables if name not in contents]:
        raise DatasetError(f"{path} must contain the variable {missing[0]}, got none; use the data set's original file")
    return tuple(Value(array=np.asarray(contents[name]), where=f"{path}: {name}") for name in variables)


def _check_elements(content: bytes) -> None:
    """Raise ValueError or zlib.error if an element of a MAT file of version 5 to 7 has no known type or no end.

    SciPy looks its type up in a table without checking it, and crashed on 3 % of files with a few changed bytes.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order and content[124:126] in (b"\x00\x01", b"\x01\x00"):
        _walk(memoryview(content)[_HEADER:], struct.Struct(f"{order}II"))


def _walk(data: memoryview, tag: struct.Struct, depth: int = 0) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("its structs are nested too deeply")
    at = 0
    while at < len(data):
        if len(data) - at < tag.size:
            raise ValueError("it is truncated")
        kind, size = tag.unpack_from(data, at)
        begin = at + tag.size
        following = begin + size + (0 if kind == _COMPRESSED else -size % 8)
        if kind >> 16:  # a small element: its size, type and up to 4 bytes of data in one tag
            kind, size, begin, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        end = begin + size
        if kind not in _ELEMENTS or end > min(following, len(data)):
            raise ValueError(f"it has an element of type {kind} and {size} bytes")
        if kind == _COMPRESSED:
            _walk(memoryview(zlib.decompressobj().decompress(data[begin:end], _MOST)), tag, depth + 1)
        elif kind == _MATRIX:
            _walk(data[begin:end], tag, depth + 1)
        at = following


def _kind(array: npt.NDArray[Any]) -> str:
    shape = " x ".join(map(str, array.shape)) or "single"
    if array.dtype.names is not None:
        return f"a {shape} struct"
    return f"a {shape} " + {"O": "cell array", "U": "text"}.get(array.dtype.kind, "array of numbers")
