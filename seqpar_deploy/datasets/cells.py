"""The rows, values and picture names of tables, as spreadsheets and pandas write them."""

from __future__ import annotations

import codecs
import csv
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from seqpar_deploy.datasets.base import NO, UNKNOWN, YES
from seqpar_deploy.errors import DatasetError

_SEPARATORS = ",;\t|"
_NO_TABLES = {  # first bytes of files that people save with another suffix
    b"PK\x03\x04": "an Excel workbook; save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV UTF-8",
    b"PAR1": "a Parquet file; save it as CSV",
    b"\x1f\x8b": "a gzip file; unpack it",
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"<!DOCTYPE": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
}
_WORDS = {"true": YES, "false": NO}
_EMPTY = {"", "nan", "none", "null", "na", "n/a", "<na>", "#n/a"}  # as pandas, R and spreadsheets write no value
_DECLARED = re.compile(r"sep=(.|\t)", re.IGNORECASE)  # a first line for Excel
_UNNAMED = re.compile(r"(Unnamed: \d+(_level_\d+)?)?")  # a column of row numbers, in pandas' words


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file: UTF-16 if it begins with its byte order mark, else UTF-8.

    Raises DatasetError for files that are no text, and OSError.
    """
    with path.open("rb") as file:
        head = file.read(64)
    for start, kind in _NO_TABLES.items():
        if head.startswith(start):
            raise DatasetError(f"{path} must be a text file, got {kind}")
    return "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the values of each row of a CSV file that is not blank, the header first.

    Values are separated by the one of `,`, `;`, tab and `|` that is most frequent in the header. Values beyond the
    header are dropped if they are empty.

    Raises DatasetError, csv.Error, OSError and UnicodeDecodeError.
    """
    with path.open(encoding=encoding_of(path), newline="") as file:
        first = next((line for line in iter(file.readline, "") if line.strip()), "")
        declared = _DECLARED.fullmatch(first.strip())
        if not declared:
            file.seek(0)
        separator = declared[1] if declared else max(_SEPARATORS, key=first.count)
        rows, width = csv.reader(file, delimiter=separator), 0
        for row in rows:
            values = [value.strip("\ufeff \t\r\n\xa0") for value in row]
            if not any(values):
                continue
            while width and len(values) > width and not values[-1]:
                values.pop()
            width = width or len(values)
            yield rows.line_num, values


def is_unnamed(header: str) -> bool:
    """Return whether a column has no name, as the row numbers of pandas and empty columns of spreadsheets."""
    return _UNNAMED.fullmatch(header) is not None


def label_of(value: Any, attribute: str) -> int:
    """Return the label of a value: 1, 1.0 and true are yes, 0, 0.0 and false are no, and no value is unknown.

    Raises ValueError.
    """
    text = "" if value is None else str(value).strip().casefold()
    if text in _EMPTY:
        return UNKNOWN
    if text in _WORDS:
        return _WORDS[text]
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        number = -1.0
    if number not in (0, 1):
        raise ValueError(f"{attribute!r} must be 1 (yes), 0 (no) or empty (unknown), got {value!r}")
    return YES if number == 1 else NO


def find_picture(folder: Path, image: str) -> Path:
    """Return the path of a picture that a table in `folder` names, or the plain path if there is none.

    Tried in this order: the name as it is, with `/` for `\\`, with decoded `%20`, each beside the table and in a folder
    `images`, then each in any case.
    """
    slashed = image.replace("\\", "/")
    names = dict.fromkeys((image, slashed, unquote(slashed.removeprefix("file://"))))
    places = [base / name for name in names for base in (folder, folder / "images")]
    for place in places:
        # Not `Path.exists`, which raises for impossible names; opening them raises an error that names the file.
        if os.path.exists(place):
            return place
    return next(filter(None, map(_in_any_case, places)), folder / image)


def _in_any_case(path: Path) -> Path | None:
    """Return the only file whose path differs in case at most, or None."""
    if len(path.parts) < 2:
        return None
    parent = path.parent if os.path.isdir(path.parent) else _in_any_case(path.parent)
    found = _names_in(parent).get(path.name.casefold(), []) if parent else []
    return parent / found[0] if parent and len(found) == 1 else None


@functools.lru_cache(maxsize=64)
def _names_in(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            names.setdefault(name.casefold(), []).append(name)
    except OSError:
        pass
    return names
