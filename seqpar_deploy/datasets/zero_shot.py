"""The zero-shot splits of PETA-ZS and RAP-ZS: no person is in two parts.

They are published only as pickles (`dataset_zs_run0.pkl` of valencebond/Rethinking_of_PAR). A pickle can run any
program when it is opened, so this package opens none. docs/datasets.md has the command that converts a pickle that you
trust to `zero_shot.json`, the names of each part's pictures: `{"train": ["00001.png", ...], "val": [...], "test":
[...]}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqpar_deploy.datasets.annotations import read_json
from seqpar_deploy.errors import DatasetError


def read_zero_shot(root: Path, parts: Sequence[str], images: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the rows of `images` that `zero_shot.json` lists in these parts, in its order. Raises DatasetError."""
    path = root / "zero_shot.json"
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; docs/datasets.md shows how to make it from the published split")
    content = read_json(path)
    row_of = {name: row for row, name in enumerate(images)}
    rows: list[int] = []
    for part in parts:
        names = content.get(part) if isinstance(content, dict) else None
        if not isinstance(names, list):
            raise DatasetError(f"{path} must contain lists of picture names train, val and test, got no list {part!r}")
        if unknown := [name for name in names if not isinstance(name, str) or name not in row_of]:
            raise DatasetError(f"{part} in {path} must list pictures of the annotations, got {unknown[0]!r}")
        rows += [row_of[name] for name in names]
    return np.array(rows, np.int64)
