"""Converts a graph's outputs to a table of boxes, scores and classes, before it is known whether they make sense."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.video.detect.picture import FloatArray

Arrays = Mapping[str, npt.NDArray[Any]]
Decode = Callable[[Arrays], "Table"]
LOGITS = 0.1  # least share of logits that are not between 0 and 1
PER_PICTURE = 2.0  # relative boxes are below, in sizes of the picture; boxes in pixels are above

# The columns of a row: p picture, l t r b edges, x y w h centre and size, s score, o objectness, c class, _ unused.
_NAMED_COLUMNS = re.compile(r"batch_?(?:no|id|index)?|class_?id|label|score|x1y1x2y2|y1x1y2x2|cxcywh")
_COLUMNS_OF = {"ba": "p", "cl": "c", "la": "c", "sc": "s", "x1": "ltrb", "y1": "tlbr", "cx": "xywh"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Boxes of one run.

    `edges` (N, 4) are in pixels of the picture or relative to its size. `scores` are (N,) with `labels` (N,), or (N, C)
    with None. `picture` (N,) is the index of the picture, if the rows have it.
    """

    edges: FloatArray
    scores: FloatArray
    labels: FloatArray | None = None
    picture: FloatArray | None = None

    @property
    def best(self) -> FloatArray:
        """The highest score of each row (N,)."""
        if self.labels is not None:
            return self.scores
        return np.asarray(self.scores.max(axis=1, initial=0), dtype=np.float32)

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """The class of each row (N,)."""
        if self.labels is None:
            return np.asarray(self.scores.argmax(axis=1), dtype=np.int64)
        return np.rint(np.nan_to_num(self.labels, nan=-1, posinf=-1, neginf=-1)).astype(np.int64)

    def of(self, people: list[int]) -> tuple[FloatArray, FloatArray]:
        """Return edges and scores of the boxes of these classes."""
        if self.labels is None:
            return self.edges, np.asarray(self.scores[:, people].max(axis=1), dtype=np.float32)
        kept = np.isin(self.classes, people)
        return self.edges[kept], self.scores[kept]

    def rows(self, kept: npt.NDArray[np.bool_]) -> Table:
        """Return some of the rows."""
        labels, picture = self.labels, self.picture
        return Table(
            edges=self.edges[kept],
            scores=self.scores[kept],
            labels=None if labels is None else labels[kept],
            picture=None if picture is None else picture[kept],
        )


def columns_in_name(name: str) -> str | None:
    """Return the columns that an output's name lists, as of PINTO's `batchno_classid_score_x1y1x2y2`, or None."""
    columns = "".join(_COLUMNS_OF[part[:2]] for part in _NAMED_COLUMNS.findall(name.lower()))
    return columns if "c" in columns and ("l" in columns or "x" in columns) else None


def rows_by(columns: str, name: str) -> Decode:
    """Return the conversion of rows (..., len(columns) or more) whose columns mean this."""
    at = {letter: columns.index(letter) for letter in columns}

    def decode(outputs: Arrays) -> Table:
        array = outputs[name]
        rows = array.reshape(-1, array.shape[-1]).astype(np.float32)
        box = rows[:, [at[letter] for letter in ("ltrb" if "l" in at else "xywh")]]
        scores = rows[:, at["s"]] * (rows[:, at["o"]] if "o" in at else np.float32(1))
        return Table(
            edges=box if "l" in at else edges_of(box),
            scores=scores,
            labels=rows[:, at["c"]] if "c" in at else np.zeros(len(rows), dtype=np.float32),
            picture=rows[:, at["p"]] if "p" in at else None,
        )

    return decode


def dense(name: str, *, columns_first: bool, objectness: bool, classes: int, centre: bool = True) -> Decode:
    """Return the conversion of a table of a box, optional objectness and class scores per anchor.

    A box is centre and size, or edges if `centre` is false.
    """
    before = 5 if objectness else 4

    def decode(outputs: Arrays) -> Table:
        table = (outputs[name][0].T if columns_first else outputs[name][0]).astype(np.float32)
        scores = table[:, before : before + classes]
        edges = edges_of(table[:, :4]) if centre else table[:, :4]
        return Table(edges=edges, scores=scores * table[:, 4:5] if objectness else scores)

    return decode


def on_grid(decode_raw: Decode, name: str, height: int, width: int) -> Decode:
    """Add the decoding of YOLOX's export: offsets in the cell and logarithms of sizes, both in strides."""
    centres, strides = [], []
    for step in (8, 16, 32, 64):
        down, across = np.mgrid[: height // step, : width // step]
        centres.append(np.stack([across, down], axis=2).reshape(-1, 2))
        strides.append(np.full((len(centres[-1]), 1), step))

    def decode(outputs: Arrays) -> Table:
        raw = outputs[name][0, :, :4].astype(np.float32)
        levels = 3 if len(raw) == sum(map(len, centres[:3])) else 4
        step = np.concatenate(strides[:levels])
        centre = (raw[:, :2] + np.concatenate(centres[:levels])) * step
        size = np.exp(np.clip(raw[:, 2:4], -20, 20)) * step
        box = np.concatenate([centre, size], axis=1).astype(np.float32)
        return dataclasses.replace(decode_raw(outputs), edges=edges_of(box))

    return decode


def edges_of(centres: npt.NDArray[Any]) -> FloatArray:
    """Convert centre x, y, width, height (N, 4) to edges (N, 4)."""
    centre, half = centres[:, :2].astype(np.float32), centres[:, 2:4].astype(np.float32) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def probabilities(values: npt.NDArray[Any], *, softmax: bool) -> FloatArray:
    """Convert logits (N, C) to scores. Values that are scores already stay.

    They are logits if many are below 0 or above 1: quantisation puts single scores there, and an overflow is no number.
    """
    values = values.astype(np.float32)
    numbers = values[np.isfinite(values)]
    if not numbers.size or float(((numbers < 0) | (numbers > 1)).mean()) < LOGITS:
        return values
    if softmax:
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))), dtype=np.float32)
