"""A recognizer without a model, for tests of the session and the element."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from fakes.predictions import predicted

from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import load_label_set


class FakeRecognizer:
    """Everyone wears a hat. `seconds` is how long a batch takes, and `held` keeps it waiting."""

    def __init__(self, *, seconds: float = 0.0, fails: bool = False) -> None:
        self.label_set, self.thresholds = load_label_set("pa100k"), None
        self.seconds, self.fails = seconds, fails
        self.held = threading.Event()
        self.held.set()
        self.started = threading.Event()
        self.crops: list[Crop] = []
        self.closed = 0

    def predict(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> list[Prediction]:
        self.started.set()
        if self.fails:
            raise RuntimeError("the model broke")
        self.held.wait(60)
        time.sleep(self.seconds)
        self.crops += crops
        return [predicted({"Hat": 0.9}, self.label_set)] * len(crops)

    def predict_iter(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> Iterator[Prediction]:
        yield from self.predict(crops, drafts=drafts)

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> FakeRecognizer:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
