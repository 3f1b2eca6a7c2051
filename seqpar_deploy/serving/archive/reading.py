"""Reads the pictures of entries: files, members of tar archives, rows of Parquet files, and boxes of pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from seqpar_deploy.errors import ImageError
from seqpar_deploy.images import decode_image, read_image
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.places import is_address, open_place, read_place, reason
from seqpar_deploy.serving.archive.sdk import import_parquet


def read_pictures(entries: Sequence[Entry], without: Collection[int] = ()) -> Iterator[tuple[int, Crop | str]]:
    """Yield the place of each entry, with its picture, or its error in one line.

    Args:
        entries: The entries. Rows of one Parquet file are best next to each other, ascending.
        without: Places to leave out. Default: none.
    """
    rows: Iterator[bytes | None] | None = None
    source = ""
    for place, entry in enumerate(entries):
        if place in without:
            continue
        try:
            if entry.kind == "row":
                if rows is None or source != entry.source:
                    source = entry.source
                    some = [one for number, one in enumerate(entries) if number >= place and number not in without]
                    rows = _read_rows([one for one in some if one.source == source])
                yield place, _decoded(entry, next(rows, None))
            else:
                yield place, _read_picture(entry)
        except ImageError as error:
            yield place, reason(error)
        except Exception as error:  # of a Parquet file, or of a file system
            rows = None
            yield place, f"{entry.id} cannot be read: {reason(error)}; check the file"


def _read_picture(entry: Entry) -> Crop:
    """Read a picture that is no row of a Parquet file. Raises ImageError."""
    try:
        if entry.kind == "picture" and not is_address(entry.source):
            image = read_image(entry.source)
        else:
            image = decode_image(read_place(entry.source, entry.offset, entry.size), entry.id)
    except (OSError, ValueError, ImportError) as error:
        raise ImageError(f"{entry.id} cannot be read: {reason(error)}; check the file") from None
    return image if entry.box is None else _cut(image, entry)


def _read_rows(entries: Sequence[Entry]) -> Iterator[bytes | None]:
    """Yield the bytes of the pictures in rows of one Parquet file, ascending, None for a null. Raises OSError."""
    wanted = [entry.offset or 0 for entry in entries]
    with open_place(entries[0].source) as opened, import_parquet().ParquetFile(opened) as file:
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            here = [row - start for row in wanted if start <= row < start + count]
            if here:
                yield from _rows_of_group(file, group, here)
            start += count


def _rows_of_group(file: Any, group: int, wanted: Sequence[int]) -> Iterator[bytes | None]:
    start, left = 0, list(wanted)
    for batch in file.iter_batches(batch_size=16, row_groups=[group], columns=["image"]):
        while left and left[0] < start + batch.num_rows:
            value = batch.column(0)[left.pop(0) - start].as_py()
            yield value.get("bytes") if isinstance(value, dict) else value
        if not left:
            return
        start += batch.num_rows


def _decoded(entry: Entry, content: bytes | None) -> Crop:
    if not isinstance(content, bytes) or not content:
        raise ImageError(f"{entry.id} must be the bytes of a picture, got none; check column `image`")
    return decode_image(content, entry.id)


def _cut(image: Crop, entry: Entry) -> Crop:
    assert entry.box is not None
    left, top, right, bottom = entry.box
    crop = image[top:bottom, left:right]
    if not crop.size:
        height, width = image.shape[:2]
        raise ImageError(f"box of {entry.source} must overlap its {width} x {height} pixels, got {entry.box}")
    return crop
