"""Pictures of the rows of a search, from their source if it is still there."""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import BackendUnavailableError, SeqparError
from seqpar_deploy.images import decode_image, read_image
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.serving.search.arrow import import_arrow
from seqpar_deploy.serving.search.results import reading
from seqpar_deploy.video.sources.connection import load_av
from seqpar_deploy.video.sources.orientation import Upright
from seqpar_deploy.video.sources.state import Tally
from seqpar_deploy.video.sources.stream_choice import choose_stream

_log = logging.getLogger(__name__)

_LARGEST = 32 * 1024 * 1024  # bytes of a picture in a tar
_ROWS_READ = 16  # pictures of a Parquet file in memory at a time
_SEEK_FRAMES = 1000  # frames to decode after a key frame, at most


def load_picture(row: Mapping[str, Any]) -> RgbImage | None:
    """Load the picture of a row of results: a local file, a member of a tar, a row of a table, or a box of a video.

    The source of a person of a live run is the saved crop, if there is one.

    Args:
        row: The row, with at least the columns `source`, `entry`, `timestamp` and `box`.

    Returns:
        The picture, uint8 RGB (h, w, 3). None if the source is gone, has changed, or is of another kind.
    """
    source = Path(row["source"])
    try:
        if not source.is_file():
            return None
        if row["timestamp"] is not None and source.suffix == ".jpg":
            return read_image(source)  # the saved crop of a person of `seqpar video`
        if row["timestamp"] is not None:
            return _from_video(source, row["timestamp"], row["box"])
        if row["box"] is not None:  # of a table
            return _inside(read_image(source), row["box"])
        if row["entry"] is None:
            return read_image(source)
        return _from_tar(source, row["entry"]) if tarfile.is_tarfile(source) else _from_parquet(source, row["entry"])
    except (SeqparError, OSError, ValueError, tarfile.TarError) as error:
        _log.debug("%s has no picture", row["source"], exc_info=error)
        return None


def _from_tar(source: Path, entry: str) -> RgbImage | None:
    with tarfile.open(source) as archive:
        member = next((member for member in archive if member.name == entry), None)
        content = archive.extractfile(member) if member and member.size <= _LARGEST else None
        return None if content is None else decode_image(content.read(_LARGEST), entry)


def _from_parquet(source: Path, entry: str) -> RgbImage | None:
    """Return the picture in a row of a table, whose column `image` holds bytes, alone or as a struct's `bytes`."""
    row = int(entry)
    with reading(source), import_arrow().parquet.ParquetFile(source) as file:
        for group in range(file.num_row_groups):
            if row >= (count := file.metadata.row_group(group).num_rows):
                row -= count
                continue
            for batch in file.iter_batches(_ROWS_READ, row_groups=[group], columns=["image"]):
                if row < len(batch):
                    value = batch.column(0)[row].as_py()
                    content = value.get("bytes") if isinstance(value, dict) else value
                    return decode_image(content, entry) if isinstance(content, bytes) else None
                row -= len(batch)
    return None


def _from_video(source: Path, timestamp: float, box: list[float] | None) -> RgbImage | None:
    """Return a box of the frame at `timestamp` seconds after the first one."""
    if box is None:
        return None
    try:
        av = load_av()
    except BackendUnavailableError as error:
        _log.debug("%s", error)
        return None
    try:
        with av.open(str(source)) as container:
            stream = choose_stream(container, dict)
            upright = Upright(str(source), Tally(quiet=True), av.video.reformatter.VideoReformatter())
            upright.begin(stream)
            first = next(container.decode(stream)).pts or 0
            wanted = first + round(timestamp / float(stream.time_base or 1))
            container.seek(wanted, stream=stream)
            for _, picture in zip(range(_SEEK_FRAMES), container.decode(stream), strict=False):
                if picture.pts is not None and picture.pts >= wanted:
                    return _inside(upright(picture, stream, upright.matrix_of(picture)), box)
    except (av.error.FFmpegError, StopIteration):
        return None
    return None


def _inside(image: RgbImage, box: list[float]) -> RgbImage | None:
    """Return the part of an image in a box, or None if the box is outside."""
    left, top, right, bottom = (max(0, round(side)) for side in box)
    part = image[top:bottom, left:right]
    return part if part.size else None
