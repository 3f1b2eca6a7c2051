"""`seqpar video --keep-uncertain N`: write the most uncertain crops of a run as a table, ready to be labelled."""

from __future__ import annotations

import csv
import datetime
import heapq
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from seqpar_deploy.calibration.maps import Floats, log_odds
from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.errors import SinkError
from seqpar_deploy.files import check_writable, new_folder
from seqpar_deploy.images import encode_png
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.vocab import LabelSet

TABLE, PICTURES = "people.csv", "images"

Key = tuple[str, int]


def uncertainty(probabilities: Floats, thresholds: Thresholds | None) -> float:
    """Return how uncertain a prediction is, 0 to 0.5.

    It is the mean over attributes of 1 / (1 + exp(d)). d is the distance in log-odds from the attribute's probability
    to the threshold of its state, 0 if the state is unknown. At the threshold 0.5 that is the expected share of
    attributes that are wrong.

    Args:
        probabilities: Probabilities of one crop, (n,).
        thresholds: Thresholds of the states. None for 0.5.
    """
    odds = log_odds(probabilities)
    yes, no = (0.5, 0.5) if thresholds is None else (thresholds.yes, thresholds.no)
    distance = np.maximum(0, np.maximum(odds - log_odds(np.asarray(yes)), log_odds(np.asarray(no)) - odds))
    return float((1 / (1 + np.exp(distance))).mean())


class UncertainCrops(BaseSink):
    """Keeps the most uncertain crops of a run, at most one per track, and writes them on `close`.

    The folder gets `people.csv` in the format of `load_table`, with the columns `image` and `group` and an empty
    column per attribute, and the crops as PNG in `images`. The most uncertain crop comes first. `group` is stream and
    track. Without a crop, nothing is written.

    Memory grows with `most`, not with the length of the run: a crop takes about 20 to 100 kB.

    Args:
        folder: The folder to write. It must not exist.
        most: Number of crops to keep, 1 or more.
        label_set: The attributes.
        thresholds: Thresholds of the states. Default: 0.5 for all attributes.

    Raises:
        SinkError: The folder exists, or cannot be written.
    """

    def __init__(self, folder: Path, most: int, label_set: LabelSet, thresholds: Thresholds | None = None) -> None:
        self.name = f"uncertain crops {folder}"
        self.path = folder
        self.wrote = False
        self._most, self._label_set, self._thresholds = most, label_set, thresholds
        self._kept: dict[Key, tuple[float, bytes]] = {}
        self._least: list[tuple[float, Key]] = []  # heap, with entries that are outdated
        self._added: dict[Key, float] = {}  # seconds since 1970
        self._lock = threading.Lock()
        check_uncertain(folder)

    def __call__(self, candidate: Candidate, prediction: Prediction, _first: bool) -> None:
        """Keep the crop if it is one of the most uncertain, and the most uncertain of its track."""
        value = uncertainty(prediction.probabilities, self._thresholds)
        if candidate.crop.size:
            self.add((candidate.stream, candidate.track_id), value, lambda: encode_png(candidate.crop))

    def add(self, key: Key, value: float, encode: Callable[[], bytes]) -> None:
        """Keep a crop of the track `key`, encoded as PNG, if it is uncertain enough. NaN is ignored."""
        with self._lock:
            before = self._kept.get(key)
            bar = before[0] if before else self._bar()
            if not value > bar:
                return
            self._kept[key] = value, encode()
            self._added[key] = time.time()
            heapq.heappush(self._least, (value, key))
            if len(self._kept) > self._most:
                self._drop_outdated()
                self._drop(heapq.heappop(self._least)[1])
            if len(self._least) > 2 * self._most:
                self._least = [(value, key) for key, (value, _) in self._kept.items()]
                heapq.heapify(self._least)

    def delete_before(self, time: datetime.datetime) -> int:
        """Drop crops that were kept before a time. Those of earlier runs are in folders of their own.

        Args:
            time: The time, with a time zone.

        Returns:
            Number of crops dropped.
        """
        with self._lock:
            old = [key for key, added in self._added.items() if added < time.timestamp()]
            for key in old:
                self._drop(key)
        return len(old)

    def close(self) -> None:
        """Write the folder. Safe to call twice."""
        with self._lock:
            if not self.wrote and self._kept:
                self._write()
                self.wrote = True

    def _drop(self, key: Key) -> None:
        del self._kept[key], self._added[key]

    def _bar(self) -> float:
        """Return the value that a new track must exceed."""
        if len(self._kept) < self._most:
            return -1.0
        self._drop_outdated()
        return self._least[0][0]

    def _drop_outdated(self) -> None:
        """Remove entries of the heap, from its start, whose track is gone or has a more uncertain crop."""
        while (kept := self._kept.get(self._least[0][1])) is None or kept[0] != self._least[0][0]:
            heapq.heappop(self._least)

    def _write(self) -> None:
        names = [attribute.name for attribute in self._label_set.attributes]
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["image", "group", *names])
        order = sorted(self._kept.items(), key=lambda item: (-item[1][0], item[0]))
        digits = max(3, len(str(len(order))))
        with new_folder(self.path, marker=TABLE, overwrite=False, error=SinkError) as staging:
            (staging / PICTURES).mkdir()
            for number, ((stream, track_id), (_, picture)) in enumerate(order, 1):
                image = f"{PICTURES}/{number:0{digits}d}.png"
                (staging / image).write_bytes(picture)
                table.writerow([image, f"{stream} #{track_id}", *[""] * len(names)])
            (staging / TABLE).write_bytes(text.getvalue().encode("utf-8", "replace"))


def check_uncertain(folder: Path) -> None:
    """Raise SinkError, before any work, if the folder exists or cannot be written."""
    if folder.exists() or folder.is_symlink():
        raise SinkError(f"--uncertain-crops must be a new folder, got {folder}, which exists; choose another name")
    check_writable(folder)
