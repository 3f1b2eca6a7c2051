"""The people of one video of an archive."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from seqpar_deploy.errors import VideoError
from seqpar_deploy.files import temporary_folder
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.places import is_address, open_place, patiently, reason
from seqpar_deploy.video import Event, Frame, Person, TrackedBox, watch
from seqpar_deploy.video.sources.connection import load_av

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_NO_CROP = np.zeros((0, 0, 3), np.uint8)


def people_of_video(
    entry: Entry, recognizer: AnyRecognizer, on_frame: Callable[[], object]
) -> tuple[Entry, list[Person], str]:
    """Follow the people of a video.

    Args:
        entry: The video. One that FFmpeg cannot read where it is, for example at s3://, is copied to a temporary file.
        recognizer: Classifies the crops.
        on_frame: Called per frame.

    Returns:
        The entry, with the time of the container if it had none, the people by track ID, and the error in one line, or
        an empty text.
    """
    people: dict[int, Person] = {}
    error = ""
    with contextlib.ExitStack() as stack:
        try:
            place = entry.source if _is_readable(entry) else _copied(entry, stack.enter_context(temporary_folder()))
            entry = _with_time(entry, place)
            sink = _Ended(people, on_frame)
            with watch(place, recognizer, sinks=[sink], live=False) as events:
                for _ in events:
                    pass
        except VideoError as problem:
            error = reason(problem)
        except (OSError, ValueError, ImportError) as problem:
            error = f"{entry.source} cannot be read: {reason(problem)}; check the file"
    return entry, [people[track_id] for track_id in sorted(people)], error


class _Ended:
    """A sink that keeps the people whose tracks have ended."""

    def __init__(self, people: dict[int, Person], on_frame: Callable[[], object]) -> None:
        self._people, self._on_frame = people, on_frame

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        self._on_frame()

    def event(self, event: Event) -> None:
        if event.kind == "ended":
            person = event.person  # without its crop, of about 100 kB, a video may have thousands of people
            self._people[person.track_id] = dataclasses.replace(person, best_crop=_NO_CROP)

    def close(self) -> None:
        pass


def _is_readable(entry: Entry) -> bool:
    return not is_address(entry.source) or entry.source.startswith(("http://", "https://"))


def _copied(entry: Entry, folder: Path) -> str:
    """Copy a video from an address into a folder. The name does not depend on the folder, as errors name it."""
    target = folder / os.path.basename(entry.source)

    def copy() -> None:
        with open_place(entry.source) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)

    patiently(copy)
    return str(target)


def _with_time(entry: Entry, place: str) -> Entry:
    """Fill in the time at which the container says that it was made, if nothing else tells the time."""
    if entry.captured_at is not None:
        return entry
    try:
        with load_av().open(place) as container:
            text = container.metadata.get("creation_time", "")
        made = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except Exception:  # of PyAV, which raises many kinds: reading the video reports them
        return entry
    if made.tzinfo is None or made.year < 1990:  # cameras without a clock write 1904 or 1970
        return entry
    return msgspec.structs.replace(entry, captured_at=(made - _EPOCH) // datetime.timedelta(microseconds=1))
