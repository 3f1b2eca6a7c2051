"""MATLAB annotation files, read without trusting them: a surprise is one line that says where in the file it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import DatasetError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """Something inside a MAT file, and where it lies.

    SciPy gives every MATLAB value as an array of at least two dimensions: a struct is a (1, 1) record array, a cell
    array an object array, a text an array of one string. Its `simplify_cells` removes dimensions of size 1: a matrix of
    26 rows and one column would pass for one row of 26 labels, and a text for a cell array.
    """

    array: npt.NDArray[Any]
    where: str

    def field(self, key: str | int) -> Value:
        """A struct's field, by its name, or by its place where the published code knows no more than that."""
        names = self.array.dtype.names
        if names is None or self.array.size != 1:
            raise DatasetError(f"{self.where} is {_kind(self.array)}, wanted one struct")
        name = key if isinstance(key, str) else names[key] if key < len(names) else None
        if name is None or name not in names:
            raise DatasetError(f"{self.where} has fields {', '.join(names)}; wanted field {key}")
        return Value(array=np.asarray(self.array.flat[0][name]), where=f"{self.where}.{name}")

    def cell(self, index: int) -> Value:
        """A cell array's element, counted from 0, whether it is a row or a column."""
        cells = self._cells()
        if index >= len(cells):
            raise DatasetError(f"{self.where} has {len(cells)} cells, wanted at least {index + 1}")
        return Value(array=np.asarray(cells[index]), where=f"{self.where}{{{index + 1}}}")

    def texts(self) -> list[str]:
        """The strings of a cell array."""
        texts = []
        for number, cell in enumerate(self._cells(), start=1):
            text = np.asarray(cell)
            if text.dtype.kind != "U" or text.size > 1:
                raise DatasetError(f"{self.where}{{{number}}} is {_kind(text)}, wanted text")
            texts.append(str(text.flat[0]).strip() if text.size else "")
        return texts

    def matrix(self, *, rows: int | None = None, columns: int | None = None) -> npt.NDArray[Any]:
        """Numbers, (rows, columns)."""
        if self.array.dtype.kind not in "biuf" or self.array.ndim != 2:
            raise DatasetError(f"{self.where} is {_kind(self.array)}, wanted a matrix of numbers")
        for got, wanted, what in zip(self.array.shape, (rows, columns), ("rows", "columns"), strict=True):
            if wanted not in (None, got):
                raise DatasetError(f"{self.where} has {got} {what}, wanted {wanted}")
        return self.array

    def indices(self, size: int) -> npt.NDArray[np.int64]:
        """MATLAB's indices 1 to `size`, of a row or a column, as Python's 0 to `size` - 1."""
        numbers = self.matrix().ravel()
        indices = numbers.astype(np.int64)
        if (indices != numbers).any() or (indices < 1).any() or (indices > size).any():
            raise DatasetError(f"{self.where} holds more than the indices 1 to {size}")
        return indices - 1

    def _cells(self) -> list[Any]:
        if self.array.dtype != object:
            raise DatasetError(f"{self.where} is {_kind(self.array)}, wanted a cell array")
        return list(self.array.ravel())


def read_mat(path: Path, *variables: str) -> tuple[Value, ...]:
    """Variables of a MAT file, in the order asked for. Raises DatasetError that names the file."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DatasetError(f"reading {path.name} needs SciPy; pip install 'seqpar-deploy[eval]'") from None
    if not path.is_file():
        raise DatasetError(f"{path} does not exist")
    try:
        contents = loadmat(path, variable_names=variables)
    except NotImplementedError:
        raise DatasetError(
            f"{path} is a MAT file of version 7.3, older ones are read; save it in MATLAB with the option -v7"
        ) from None
    except Exception as error:  # on damaged bytes SciPy raises whatever it stumbles over
        what = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{path} is damaged or no MAT file: {what}") from None
    if missing := [name for name in variables if name not in contents]:
        raise DatasetError(f"{path} has no variable {missing[0]}; is it the right file?")
    return tuple(Value(array=np.asarray(contents[name]), where=f"{path}: {name}") for name in variables)


def _kind(array: npt.NDArray[Any]) -> str:
    shape = " x ".join(map(str, array.shape)) or "single"
    if array.dtype.names is not None:
        return f"a {shape} struct"
    return f"a {shape} " + {"O": "cell array", "U": "text"}.get(array.dtype.kind, "array of numbers")
