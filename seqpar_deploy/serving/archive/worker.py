"""What a worker does: it owns a Recognizer, and recognises the pictures of a call, or the people of a video."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.sidecar import load_calibration
from seqpar_deploy.calibration.thresholds import Thresholds, read_thresholds
from seqpar_deploy.errors import ArchiveError, SeqparError
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.plan import Settings
from seqpar_deploy.serving.archive.reading import read_pictures
from seqpar_deploy.serving.archive.rows import Rows
from seqpar_deploy.serving.archive.schema import ResultMetadata
from seqpar_deploy.without import WithoutAttributes

MOST_PIXELS = 64_000_000  # of the decoded pictures that wait for the model, beside the one that is being decoded


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How a worker opens its Recognizer.

    Attributes:
        bundle: Path of the bundle, on every machine.
        settings: The settings of the job.
        thresholds: Path of the thresholds, or None for those of the calibration.
        threads: CPU threads.
    """

    bundle: str
    settings: Settings
    thresholds: str | None
    threads: int


def calibration_hash(bundle: Bundle, thresholds: Thresholds | None) -> str:
    """Return a hash of what turns the model's outputs into probabilities and states."""
    calibration = load_calibration(bundle)
    if thresholds is None and calibration is not None:
        thresholds = calibration.thresholds(bundle.label_set)
    maps = None if calibration is None else calibration.maps
    values = {
        "slopes": None if maps is None else maps.slopes.tolist(),
        "offsets": None if maps is None else maps.offsets.tolist(),
        "yes": None if thresholds is None else thresholds.yes.tolist(),
        "no": None if thresholds is None else thresholds.no.tolist(),
    }
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def limited(recognizer: AnyRecognizer, attributes: Sequence[str]) -> AnyRecognizer:
    """Return the recognizer with these attributes only, or with all of its own if none is named."""
    names = [one.name for one in recognizer.label_set.attributes]
    removed = [name for name in names if name not in attributes]
    return WithoutAttributes(recognizer, removed) if attributes and removed else recognizer


class Worker:
    """Runs in a process of its own, one call at a time.

    Memory: the model, and at most 64,000,000 decoded pixels and one more picture with its bytes.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._frames = 0

    def open(self) -> str:
        """Open the Recognizer. Returns why it cannot be opened, or an empty text."""
        options, settings = self._options, self._options.settings
        try:
            recognizer = Recognizer.from_bundle(
                options.bundle,
                backend=settings.backend,
                threads=options.threads,
                compute_precision=settings.compute_precision,
                fallback_margin=settings.fallback_margin,
                thresholds=options.thresholds,
                verify=False,  # the driver has
            )
            self._recognizer = limited(recognizer, settings.attributes)
            bundle = recognizer.bundle
            here = f"bundle {options.bundle} on {os.uname().nodename}"
            if bundle.digest != settings.bundle:
                raise ArchiveError(
                    f"{here} must have digest {settings.bundle[:12]}, got {bundle.digest[:12]}; copy the bundle there"
                )
            thresholds = (
                None if options.thresholds is None else read_thresholds(Path(options.thresholds), bundle.label_set)
            )
            if calibration_hash(bundle, thresholds) != settings.calibration:
                raise ArchiveError(f"{here} must have the calibration of the job, got another; copy the bundle there")
        except SeqparError as error:
            return str(error)
        self._metadata = ResultMetadata(bundle=bundle.digest, label_set=self._recognizer.label_set, plan=settings.hash)
        return ""

    def recognize(self, entries: Sequence[Entry], set_aside: Collection[int] = (), why: str = "") -> Any:
        """Recognise pictures.

        Args:
            entries: The pictures.
            set_aside: Places of entries that are not tried again.
            why: Their error.

        Returns:
            A `pyarrow.RecordBatch` with one row per entry, in order. A picture that cannot be read has an error.
        """
        errors: dict[int, str] = dict.fromkeys(set_aside, why)
        results: dict[int, Any] = {}
        waiting: dict[int, Crop] = {}

        def recognize_waiting() -> None:
            results.update(zip(waiting, self._recognizer.predict(list(waiting.values())), strict=True))
            waiting.clear()

        for place, found in read_pictures(entries, set_aside):
            if isinstance(found, str):
                errors[place] = found
                continue
            waiting[place] = found
            if sum(crop.shape[0] * crop.shape[1] for crop in waiting.values()) >= MOST_PIXELS:
                recognize_waiting()
        recognize_waiting()
        rows = Rows(self._metadata)
        for place, entry in enumerate(entries):
            if place in errors:
                rows.add_error(entry, errors[place])
            else:
                rows.add(entry, results[place])
        return rows.to_batch()

    def watch(self, entry: Entry) -> Any:
        """Follow the people of a video.

        Args:
            entry: The video.

        Returns:
            A `pyarrow.RecordBatch` with one row per person, by track ID, and one with an error if the video cannot be
            read to its end.
        """
        from seqpar_deploy.serving.archive.videos import people_of_video

        rows = Rows(self._metadata)
        entry, people, error = people_of_video(entry, self._recognizer, self._count)
        for person in people:
            rows.add_person(entry, person)
        if error:
            rows.add_error(entry, error)
        return rows.to_batch()

    def frames(self) -> int:
        """Return the number of frames of videos so far. It grows as long as the worker does not hang."""
        return self._frames

    def _count(self) -> None:
        self._frames += 1
