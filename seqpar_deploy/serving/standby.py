"""A server, and a bundle on this machine that answers while the server is away."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.errors import ServerError, ServerUnavailableError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.serving.remote import RemoteRecognizer
from seqpar_deploy.vocab import LabelSet

if TYPE_CHECKING:
    from seqpar_deploy.video.sinks import Metrics

_CHECK_EVERY = 2.0  # seconds between two checks while the server is away, times 0.5 to 1.5
_RAREST_CHECK = 32.0  # the same for a server that goes away again within `_STEADY` seconds, again and again
_STEADY = 60.0

_log = logging.getLogger(__name__)


class StandbyRecognizer:
    """Recognise attributes on a server, and with a bundle on this machine while the server is away.

    If the server gives no usable answer, the bundle answers the rest of the crops, and all further ones. Meanwhile a
    thread checks the server about every 2 s. Once it is ready, it answers again. If it keeps going away within a
    minute, it is checked less often, down to every 32 s.

    Thresholds are those of the server if it answers at the start, else those of the bundle. Threads may share one.

    Args:
        remote: The server. Give it a short `give_up_after`, for example 1 s. `close` closes it.
        local: The bundle on this machine. `close` closes it.
        metrics: Metrics that count the crops of the bundle. Default: not published.

    Attributes:
        remote: The server.
        local: The bundle on this machine.

    Raises:
        ServerError: The server refuses, or its label set differs from that of the bundle. If it does not answer, the
            bundle answers from the start. The caller closes both then.

    Examples:
        >>> remote = RemoteRecognizer("http://gpu-server:8000", options=RemoteOptions(give_up_after=1))
        >>> with StandbyRecognizer(remote, Recognizer.from_bundle("bundles/peta")) as recognizer:
        ...     predictions = recognizer.predict(crops)
    """

    def __init__(self, remote: RemoteRecognizer, local: Recognizer, *, metrics: Metrics | None = None) -> None:
        self.remote, self.local = remote, local
        self.label_set: LabelSet = local.label_set
        self.thresholds: Thresholds | None = local.thresholds
        self._standby_crops = 0
        self._count_in_metrics = (lambda: None) if metrics is None else _counter(metrics, remote)
        self._change = threading.Condition()
        self._away = self._closed = False
        self._pause = _CHECK_EVERY
        self._returned = -math.inf  # when the server was last found ready
        self._other_digest: str | None = None  # of the server, once it was logged
        try:
            self._check()
        except ServerUnavailableError as error:
            self._lost(str(error))
        else:
            self.thresholds = remote.thresholds

    @property
    def away(self) -> bool:
        """Whether the server is away, so that the bundle answers."""
        return self._away

    @property
    def standby_crops(self) -> int:
        """Number of crops that the bundle recognised so far."""
        return self._standby_crops

    def predict(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> list[Prediction]:
        """Recognise the attributes of each crop.

        Args:
            crops: Crops of one person each, uint8 RGB (h, w, 3) of any size.
            drafts: As of `Recognizer.predict`. Default: none.

        Returns:
            One prediction per crop, in the same order.

        Raises:
            ImageError: A crop is not a uint8 RGB image.
            StrategyError: A draft has a token that is not in the vocabulary, or there is not one draft per crop.
            BackendError: The recognizer is closed, or the backend of the bundle fails.
        """
        return list(self.predict_iter(crops, drafts=drafts))

    def predict_iter(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> Iterator[Prediction]:
        """Recognise the attributes of each crop, and yield the predictions as they are ready, in the same order.

        Args:
            crops: As of `predict`.
            drafts: As of `predict`.

        Yields:
            One prediction per crop.

        Raises:
            SeqparError: As `predict`.
        """
        done = 0
        if not self._away:
            try:
                for prediction in self.remote.predict_iter(crops, drafts=drafts):
                    done += 1
                    yield prediction
            except ServerError as error:
                if self._closed:
                    raise
                self._lost(str(error))
        left = crops[done:]
        if left:
            for prediction in self.local.predict_iter(left, drafts=None if drafts is None else drafts[done:]):
                self._count()
                yield prediction

    def close(self) -> None:
        """Close the server's connections and the bundle. Safe to call twice."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self.remote.close()
        self.local.close()

    def __enter__(self) -> StandbyRecognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        """Raise ServerError unless the server is ready and has the label set. Log once if its bundle differs."""
        self.remote.check(label_set=self.label_set)
        local, digest = self.local.bundle, self.remote.digest
        if digest not in (local.digest, self._other_digest):
            self._other_digest = digest
            _log.warning(
                "%s has the bundle %.12s, and %s is %.12s; their answers may differ",
                *(self.remote.name, digest, local.path, local.digest),
            )

    def _count(self) -> None:
        with self._change:
            self._standby_crops += 1
        self._count_in_metrics()

    def _lost(self, why: str) -> None:
        """Let the bundle answer, and wait for the server in a thread."""
        with self._change:
            if self._away or self._closed:
                return
            self._away = True
            steady = time.monotonic() - self._returned > _STEADY
            self._pause = _CHECK_EVERY if steady else min(2 * self._pause, _RAREST_CHECK)
        _log.warning("%s; %s answers meanwhile", why, self.local.bundle.path)
        threading.Thread(target=self._wait_for_server, name="seqpar-standby", daemon=True).start()

    def _wait_for_server(self) -> None:
        refused = ""
        while True:
            with self._change:
                if self._change.wait_for(lambda: self._closed, self._pause * random.uniform(0.5, 1.5)):
                    return
            try:
                self._check()
            except ServerError as error:
                if not (isinstance(error, ServerUnavailableError) or self._closed or str(error) == refused):
                    refused = str(error)
                    _log.warning("%s; %s answers meanwhile", error, self.local.bundle.path)
                continue
            with self._change:
                self._away, self._returned = False, time.monotonic()
            return


def _counter(metrics: Metrics, remote: RemoteRecognizer) -> Callable[[], object]:
    counter = metrics.counter(
        "seqpar_server_standby_crops_total", "Crops recognised here while the server was away.", "server"
    )
    return counter.labels(remote.name.removeprefix("server ")).inc
