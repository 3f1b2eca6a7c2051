"""A recognizer that can be shut, so that the end of a stream does not wait for crops that are still due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.errors import VideoError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognition import AnyRecognizer


class ShutError(VideoError):
    """Nothing is recognised, because the session or its stream ends."""


class Gate:
    """A recognizer that refuses from `shut` on, so that the end of a stream does not wait for many crops.

    `pause` refuses until `resume`, for the end of one stream of several. `shut` is for good.
    """

    def __init__(self, recognizer: AnyRecognizer) -> None:
        self._recognizer = recognizer
        self.label_set, self.thresholds = recognizer.label_set, recognizer.thresholds
        self._is_shut = self._is_paused = False

    def shut(self) -> None:
        self._is_shut = True

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False

    def predict(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> list[Prediction]:
        if self._is_shut or self._is_paused:
            raise ShutError("recognition must be requested before the stream ends, got it afterwards")
        return self._recognizer.predict(crops, drafts=drafts)

    def predict_iter(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> Iterator[Prediction]:
        yield from self.predict(crops, drafts=drafts)

    def close(self) -> None:
        """The owner closes the recognizer."""

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
