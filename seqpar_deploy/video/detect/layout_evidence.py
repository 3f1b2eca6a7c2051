"""Decides between the layouts that a graph's outputs may have, by their values over the first pictures.

A layout fails if a class is not a whole number, a score not between 0 and 1, a right edge left of the left one, or a
class fires that its numbering does not have. One that is left alone is taken. If several are left, and they disagree
on the people of several pictures, the detector is refused as ambiguous.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.decoding import PER_PICTURE, Arrays, Table
from seqpar_deploy.video.detect.layout import Layout
from seqpar_deploy.video.detect.picture import FloatArray

PATIENCE = 5  # pictures on which layouts may disagree
CHECKED = 50  # pictures with boxes that are checked; later ones are trusted
SURE = 0.25  # score of a box that counts as evidence
_WRONG = 0.2  # share of wrong rows that makes a layout fail; half precision makes single ones wrong

_log = logging.getLogger(__name__)


class LayoutChoice:
    """Chooses a layout, and converts outputs to people's boxes.

    `names` are the class names in the file, `wanted` the classes that the caller named, `size` width, height, width,
    height of the picture in pixels. `layout` is the likeliest layout, `settled` whether it is the only one left,
    `withheld` whether boxes of the latest picture were withheld, and `fired` the number of pictures in which a class
    fired.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        *,
        size: FloatArray,
        names: Mapping[int, str],
        wanted: int | str | None,
        threshold: float,
        shown: str,
    ) -> None:
        self._all, self._left = list(layouts), [layout for layout in layouts if not layout.spare]
        self._size, self._names, self._wanted, self._shown = size, names, wanted, shown
        self._threshold = threshold
        self._classes = {layout.name: layout.people(names, wanted) for layout in layouts}
        self._relative: dict[str, bool] = {}
        self._faults: dict[str, str] = {}
        self._disagreed = self._checked = self._seen = self._overflowed = 0
        self.withheld = False
        self.fired: collections.Counter[int] = collections.Counter()

    @property
    def layout(self) -> Layout:
        return self._left[0]

    @property
    def settled(self) -> bool:
        return len(self._left) == 1

    @property
    def people(self) -> list[int]:
        """Classes of people in the likeliest layout."""
        return self._classes[self.layout.name]

    def see_blank(self, outputs: Arrays) -> None:
        """Drop layouts whose classes or scores a blank picture contradicts. Its boxes may be anything."""
        tables = {layout.name: _valid(layout.decode(outputs)) for layout in self._left}
        self._left = [each for each in self._left if self._wrong_numbers(each, tables[each.name]) is None] or self._left

    def boxes(self, outputs: Arrays) -> tuple[FloatArray, FloatArray]:
        """Return edges (N, 4) in pixels of the picture and scores (N,) of people, none while layouts disagree.

        Raises DetectorError if the outputs contradict every layout, or layouts still disagree.
        """
        tables = {layout.name: layout.decode(outputs) for layout in self._left}
        if self._checked < CHECKED:
            self._seen += 1
            best = tables[self.layout.name].best
            if self._seen <= CHECKED or (best >= SURE).any() or not self.settled:
                self._check_numbers(best)
                self._check(outputs, tables)
        found = [self._people(layout, tables[layout.name]) for layout in self._left]
        self.withheld = not all(_same(found[0], other) for other in found[1:])
        if not self.withheld:
            return found[0]
        self._disagreed += 1
        if self._disagreed >= PATIENCE:
            raise self._ambiguous()
        return np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.float32)

    def close(self) -> None:
        """Raise DetectorError if boxes were withheld, but too few for `boxes` to raise it."""
        if not self.settled and 0 < self._disagreed < PATIENCE:
            raise self._ambiguous()

    def _ambiguous(self) -> DetectorError:
        return DetectorError(
            f"its layout must be unambiguous, got {self._shown}, which may be "
            f"{' or '.join(layout.name for layout in self._left)}; choose with --detector-layout"
            + (", or name the class with --person-class" if self._only_classes_differ() else "")
        )

    def _only_classes_differ(self) -> bool:
        return self._wanted is None and not self._names and any("from-1" in layout.name for layout in self._left)

    def _check_numbers(self, best: FloatArray) -> None:
        """Refuse a graph that overflows on every picture."""
        self._overflowed = self._overflowed + 1 if len(best) and not np.isfinite(best).any() else 0
        if self._overflowed >= PATIENCE:
            raise DetectorError(
                f"its scores must be numbers, got {best[0]} on {PATIENCE} pictures; export it in float32, or try "
                "another --backend"
            )

    def _check(self, outputs: Arrays, tables: dict[str, Table]) -> None:
        """Drop the layouts that these outputs contradict.

        Wrong numbers and classes drop any layout, wrong boxes only one of several: a detector that is in doubt gives
        such boxes as well.
        """
        several, undecided = len(self._all) > 1, not self.settled
        valid = {name: _valid(table) for name, table in tables.items()}
        fit = [each for each in self._left if self._note(each, self._wrong_values(each, outputs, valid[each.name]))]
        left = [each for each in fit if not several or self._note(each, self._wrong_boxes(each, valid[each.name]))]
        if not left:
            left = [each for each in self._all if each.spare and self._proves(each, outputs, tables)] or fit
        if not left:
            faults = "; ".join(f"as {name}: {fault}" for name, fault in self._faults.items())
            other_classes = "is not among" in faults
            options = ["--detector-layout"] * (len(self._all) > 1 or not other_classes)
            options += ["--person-class"] * other_classes
            raise DetectorError(
                f"its outputs must fit a layout, got {self._shown} ({faults}); set {' or '.join(options)}"
            )
        self._left = left
        sure = valid[self.layout.name] if self.layout.name in valid else _valid(tables[self.layout.name])
        sure = sure.rows(sure.best >= SURE)
        self.fired.update(set(sure.classes.tolist()))
        self._checked += self.settled and len(sure.edges) > 0
        if undecided and self.settled:
            _log.info("the detector's outputs have the layout %s", self.layout.name)

    def _note(self, layout: Layout, fault: str | None) -> bool:
        """Return whether there is no fault, and keep it for the message."""
        if fault is not None:
            self._faults[layout.name] = fault
        return fault is None

    def _proves(self, layout: Layout, outputs: Arrays, tables: dict[str, Table]) -> bool:
        """Return whether boxes that other layouts reverse are right in this one."""
        tables[layout.name] = layout.decode(outputs)
        table = _valid(tables[layout.name])
        wrong = self._wrong_values(layout, outputs, table) or self._wrong_boxes(layout, table)
        return wrong is None and bool((table.best >= SURE).any())

    def _people(self, layout: Layout, table: Table) -> tuple[FloatArray, FloatArray]:
        edges, scores = table.of(self._classes[layout.name])
        if not len(edges):
            return edges, scores
        kept = (scores >= self._threshold) & np.isfinite(edges).all(axis=1)  # half precision overflows
        edges, scores = edges[kept], scores[kept]
        proper = edges[(edges[:, 2] > edges[:, 0]) & (edges[:, 3] > edges[:, 1])]
        if layout.name not in self._relative and len(proper):
            self._relative[layout.name] = bool(np.median(np.abs(proper).max(axis=1)) <= PER_PICTURE)
        return (edges * self._size if self._relative.get(layout.name) else edges), scores

    def _wrong_values(self, layout: Layout, outputs: Arrays, table: Table) -> str | None:
        return (
            self._wrong_numbers(layout, table)
            or self._wrong_class(layout, table.rows(table.best >= SURE))
            or (layout.check(outputs) if layout.check else None)
        )

    def _wrong_boxes(self, layout: Layout, table: Table) -> str | None:
        """Return the reason if boxes are reversed, outside the picture, or not relative if they must be."""
        edges = table.edges[table.best >= SURE]
        if not len(edges):
            return None
        if _often((edges[:, 2] < edges[:, 0]) | (edges[:, 3] < edges[:, 1])):
            return "right edges left of left ones"
        relative = float(np.abs(edges).max(axis=1).min()) <= PER_PICTURE
        if layout.relative and not relative:
            return "boxes in pixels"
        limit = np.ones(4, dtype=np.float32) if relative else self._size
        outside = np.any((edges < -0.1 * limit) | (edges > 1.1 * limit), axis=1)
        return "boxes outside the picture" if _often(outside) else None

    def _wrong_numbers(self, layout: Layout, table: Table) -> str | None:
        """Return the reason if pictures, scores or classes are no such numbers."""
        if not len(table.edges):
            return None
        if table.picture is not None and _often(table.picture != 0):
            return f"picture {table.picture[table.picture != 0][0]:g} of one"
        scores = table.scores
        if self._wanted is not None and table.labels is None:
            scores = scores[:, self._classes[layout.name]]
        wrong = (scores < -1e-3) | (scores > 1.002)
        if _often(wrong.reshape(len(wrong), -1).max(axis=1)):
            return f"score {scores[wrong][0]:.4g}"
        if table.labels is not None:
            wrong = (np.abs(table.labels - np.rint(table.labels)) > 1e-3) | (table.labels < -1)
            if _often(wrong):
                return f"class {table.labels[wrong][0]:g}"
        return None

    def _wrong_class(self, layout: Layout, sure: Table) -> str | None:
        """Return the reason if a class fires that the names or the numbering do not have."""
        if self._wanted is not None or not len(sure.edges):
            return None
        if self._names:
            used, title = set(layout.numbered(self._names)), f"the {len(self._names)} named classes"
        elif layout.numbering is not None:
            used, title = set(layout.numbering.used), layout.numbering.title
        else:
            return None
        if sure.labels is not None:
            found = sorted(set(sure.classes.tolist()) - used)
        elif not self._names:
            fires = np.flatnonzero((sure.scores >= SURE).any(axis=0)).tolist()
            found = sorted(set(fires) - used)
        else:
            return None
        return f"class {found[0]} is not among {title}" if found else None


def _valid(table: Table) -> Table:
    """Return the rows that are finite and no padding, whose boxes have no size."""
    if not len(table.edges):
        return table
    with np.errstate(invalid="ignore"):  # infinity less infinity
        sizes = table.edges[:, 2:] - table.edges[:, :2]
    numbers = np.concatenate([table.edges, table.scores.reshape(len(table.edges), -1)], axis=1)
    return table.rows(np.isfinite(numbers).all(axis=1) & np.any(sizes != 0, axis=1))


def _often(wrong: npt.NDArray[np.bool_]) -> bool:
    return float(wrong.mean()) > _WRONG


def _same(one: tuple[FloatArray, FloatArray], other: tuple[FloatArray, FloatArray]) -> bool:
    return all(a.shape == b.shape and np.allclose(a, b, atol=1e-2) for a, b in zip(one, other, strict=True))
