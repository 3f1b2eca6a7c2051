"""Tables of people: CSV with a header, or JSON Lines. One row per picture, or per person in a picture."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqpar_deploy.datasets.cells import find_picture, read_rows
from seqpar_deploy.errors import ArchiveError, DatasetError
from seqpar_deploy.serving.archive.naming import Naming
from seqpar_deploy.serving.archive.places import is_address

SUFFIXES = (".csv", ".jsonl")

_BOX = ("left", "top", "right", "bottom")

Person = tuple[str, tuple[int, int, int, int] | None, str | None, int | None]  # image, box, camera, captured_at


def people_of_table(place: str, naming: Naming) -> Iterator[Person]:
    """Yield the people of a table, in its order.

    A row has `image`, a path relative to the table or an address, and may have `left`, `top`, `right` and `bottom` in
    pixels (in JSON Lines also `box`), `camera`, and `captured_at` in ISO 8601. Other columns are ignored.

    Args:
        place: Path of the table.
        naming: Gives the time zone of times without an offset.

    Raises:
        ArchiveError: The table cannot be read. The message names file and line.
    """
    if is_address(place):
        raise ArchiveError(f"table {place} must be a local file, got an address; copy it, its images may stay there")
    path = Path(place)
    try:
        for line, row in _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path):
            try:
                yield _person(path, row, naming)
            except (ValueError, TypeError) as error:
                raise ArchiveError(f"{place} line {line}: {error}") from None
    except DatasetError as error:
        raise ArchiveError(str(error)) from None
    except OSError as error:
        raise ArchiveError(f"{place} cannot be read: {error.strerror}; check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError(f"{place} must be UTF-8 text, got other bytes: {error}; save it as UTF-8") from None


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    names = [name.casefold() for name in header]
    if "image" not in names:
        raise ArchiveError(f"{path} must have a column 'image', got {', '.join(header[:4]) or 'no header'}; add one")
    for line, row in rows:
        yield line, dict(zip(names, row, strict=False))


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                try:
                    row = json.loads(text)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise ArchiveError(f"{path} line {line} must be a JSON object, got {text.strip()[:40]!r}")
                yield line, row


def _person(path: Path, row: Mapping[str, Any], naming: Naming) -> Person:
    image = row.get("image")
    if not isinstance(image, str) or not image:
        raise ValueError(f"image must be a path, got {image!r}")
    place = image if is_address(image) else os.path.abspath(find_picture(path.parent, image))
    sides = row.get("box") if row.get("box") is not None else [row.get(side) for side in _BOX]
    if not isinstance(sides, list) or len(sides) != len(_BOX):
        raise ValueError(f"box must be [left, top, right, bottom] in pixels, got {sides!r}")
    box = None
    if any(side not in (None, "") for side in sides):
        left, top, right, bottom = (int(float(side)) for side in sides)
        if not 0 <= left < right or not 0 <= top < bottom:
            raise ValueError(f"box must have 0 <= left < right and 0 <= top < bottom in pixels, got {sides}")
        box = left, top, right, bottom
    time = row.get("captured_at")
    if time is not None and not isinstance(time, str):
        raise ValueError(f"captured_at must be ISO 8601 text, got {time!r}")
    camera = row.get("camera")
    return place, box, None if camera in (None, "") else str(camera), naming.from_text(time or "")
