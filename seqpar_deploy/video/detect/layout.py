"""The types with which the layouts of a detector's outputs are described."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.class_names import choose, people_among
from seqpar_deploy.video.detect.decoding import Arrays, Decode
from seqpar_deploy.video.detect.picture import Fit, PictureInput, Scaling

_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # numbers that COCO skips


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbering:
    """A data set's class numbers: the person's, and all that occur."""

    title: str
    person: int
    used: frozenset[int]


COCO_80 = Numbering(title="COCO's 80 classes from 0", person=0, used=frozenset(range(80)))
COCO_91 = Numbering(title="COCO's numbers from 1 to 90", person=1, used=frozenset(range(1, 91)) - _GAPS)
COCO_90 = Numbering(title="COCO's 90 numbers from 0", person=0, used=frozenset(n - 1 for n in COCO_91.used))
FROM_1 = Numbering(title="classes from 1", person=1, used=frozenset(range(1, 91)))
ONE = Numbering(title="one class", person=0, used=frozenset({0}))
BY_COUNT = {1: ONE, 80: COCO_80, 90: COCO_90, 91: COCO_91}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A meaning of a graph's outputs.

    `decode` converts outputs to a table. `suppress` if the graph needs non-maximum suppression. `classes` is their
    number if the shape tells it, `numbering` the classes of a file without names, `relative` if boxes must be
    relative to the picture. `check` returns a reason why these outputs cannot have this layout, or None. A `spare`
    layout is considered if no other is possible.
    """

    name: str
    fit: Fit
    decode: Decode
    scaling: Scaling = "unit"
    suppress: bool = False
    classes: int | None = None
    numbering: Numbering | None = COCO_80
    relative: bool = False
    check: Callable[[Arrays], str | None] | None = None
    spare: bool = False

    def people(self, names: Mapping[int, str], wanted: int | str | None) -> list[int]:
        """Return the classes of people: the caller's, else by name, else by number. Raises DetectorError."""
        numbered = self.numbered(names) if names else {}
        if wanted is not None:
            found = choose(wanted, numbered)
        elif names:
            if self.classes is not None and 1 < self.classes < len(numbered):
                raise DetectorError(
                    f"its classes must have one name each, got {len(names)} names of {self.classes} classes; set "
                    "--person-class to an index"
                )
            found = people_among(numbered)
        elif self.numbering is not None:
            found = [self.numbering.person]
        else:
            count = "classes" if self.classes is None else f"{self.classes} classes"
            raise DetectorError(f"its class of people must be known, got {count} without names; set --person-class")
        if self.classes is not None and max(found) >= self.classes:
            if wanted is None:
                raise DetectorError(
                    f"its person must be one of its {self.classes} classes, got class {max(found)} by its name; set "
                    "--person-class"
                )
            raise DetectorError(
                f"--person-class must be below {self.classes}, its number of classes, got {max(found)}; use 0 to "
                f"{self.classes - 1}"
            )
        return found

    def numbered(self, names: Mapping[int, str]) -> dict[int, str]:
        """Return the names by the numbers of this layout. A list may have or lack the background that comes first."""
        first = min(names)
        if self.classes is not None and len(names) == self.classes + 1 and _is_background(names[first]):
            return {index - first - 1: name for index, name in names.items() if index != first}
        if self.classes is not None and max(names) >= self.classes >= len(names):
            return {index: names[number] for index, number in enumerate(sorted(names))}
        from_1 = self.classes is None and self.numbering is not None and self.numbering.person == 1
        if from_1 and first == 0 and not _is_background(names[0]):
            return {index + 1: name for index, name in names.items()}
        return dict(names)


def _is_background(name: str) -> bool:
    return "background" in name.lower() or name == "N/A"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """The properties of a graph by which its layouts are listed: outputs of a blank picture, names, metadata."""

    outputs: Arrays
    picture: PictureInput
    names: Mapping[int, str]
    wanted: int | str | None
    inputs: set[str]
    ultralytics: bool
    layout: str | None

    def places(self, levels: int) -> int:
        """Number of cells of YOLO's grids, the finest of 8 pixels."""
        steps = (8, 16, 32, 64)[:levels]
        return sum((self.picture.height // step) * (self.picture.width // step) for step in steps)

    @property
    def coarse_places(self) -> int:
        """Number of cells of YOLO's small variants, such as YOLOv3-tiny, whose finest grid is of 16 pixels."""
        return sum((self.picture.height // step) * (self.picture.width // step) for step in (16, 32))

    def knows(self, layout: Layout) -> bool:
        """Return whether the class of people is known in this layout."""
        try:
            layout.people(self.names, self.wanted)
        except DetectorError:
            return False
        return True

    @property
    def shown(self) -> str:
        return ", ".join(f"{name} {array.shape}" for name, array in self.outputs.items())
