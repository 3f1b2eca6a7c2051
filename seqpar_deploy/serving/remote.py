"""Recognition on a server: the same interface as `Recognizer`, with no bundle on this machine."""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.decoding.drafts import check_drafts
from seqpar_deploy.errors import ServerError, ServerUnavailableError, StrategyError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop, check_crop
from seqpar_deploy.serving.address import ServerAddress, check_token, read_address
from seqpar_deploy.serving.grpc_transport import GrpcTransport
from seqpar_deploy.serving.http_transport import HttpTransport
from seqpar_deploy.serving.meter import Meter, ServerStats
from seqpar_deploy.serving.protocol import (
    OUTPUTS,
    ServedModel,
    label_difference,
    prediction_of,
    request_tensors,
    served_model,
)
from seqpar_deploy.serving.transport import Transport
from seqpar_deploy.serving.workers import Workers
from seqpar_deploy.vocab import LabelSet

if TYPE_CHECKING:
    from seqpar_deploy.video.sinks import Health, Metrics

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0  # seconds before a retry
_LOOK_EVERY = 0.1  # seconds between two looks at `give_up` and `close` in a pause

_CLOSED = "it is not asked any more: this recognizer is closed; open another"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """Hold the options of a `RemoteRecognizer`.

    Attributes:
        timeout: Seconds for one request, above 0. Default: 30.
        give_up_after: Seconds from the first attempt in which a request may be sent again, 0 or more. The last
            attempt may take `timeout` more, twice if it reads the label set again. 0 retries none, `math.inf` retries
            without limit. Default: 60.
        in_flight: Requests in flight at a time, 1 to 256. Default: 16.
        token: Bearer token for the header `Authorization`, for example of a proxy. Default: none.
        ca: File of CA certificates (PEM) that the server's certificate is checked against. Default: the system's.
    """

    timeout: float = 30.0
    give_up_after: float = 60.0
    in_flight: int = 16
    token: str | None = dataclasses.field(default=None, repr=False)
    ca: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout < math.inf:
            raise ServerError(f"timeout must be a number of seconds above 0, got {self.timeout}; the default is 30")
        if not self.give_up_after >= 0:
            raise ServerError(f"give_up_after must be 0 s or more, got {self.give_up_after}; the default is 60")
        if not 1 <= self.in_flight <= 256:
            raise ServerError(f"in_flight must be 1 to 256 requests, got {self.in_flight}; the default is 16")
        if self.token is not None:
            check_token(self.token, "the server's token")


class RemoteRecognizer:
    """Recognise attributes on crops of people on a Triton server. Use it as a context manager. Threads may share one.

    The server runs a model of `seqpar export triton`. It is contacted at the first use, which is not retried: a server
    that does not answer then is an error at once. Later, a request without a usable answer is sent again after a pause
    of 0.1 to 3 s, until it is answered or `give_up_after` has passed. A request that the server refuses is not sent
    again. Answers are checked against the server's label set, which is read again after each failure.

    Each crop is a request of its own, which the server batches with others.

    Args:
        url: `http://[USER:PASSWORD@]HOST[:PORT][/PATH]`, or with https, grpc or grpcs. The default port is 8000 for
            HTTP, 8001 for gRPC, and 443 with TLS. gRPC needs `pip install 'seqpar-deploy[triton]'`.
        model: Name of the model. Default: `seqpar`.
        options: Time limits, requests in flight, and credentials. Default: `RemoteOptions()`.
        metrics: Metrics that count requests. Default: not published.
        health: Health checks that report a server that is away. Default: not published.

    Raises:
        ServerError: The address, the model's name or a file is invalid.
        BackendUnavailableError: tritonclient is not installed, which grpc:// needs.

    Examples:
        >>> with RemoteRecognizer("http://gpu-server:8000") as recognizer:
        ...     for prediction in recognizer.predict(crops):
        ...         print(prediction.attributes)
    """

    def __init__(
        self,
        url: str,
        model: str = "seqpar",
        *,
        options: RemoteOptions = RemoteOptions(),
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        address = read_address(url)
        if not model:
            raise ServerError("the model must have a name, got an empty one; the default is seqpar")
        self._options = options
        self._name = f"server {address.shown}"
        self._model = model
        self._transport = _open_transport(address, model, token=options.token, ca=options.ca)
        self._meter = Meter(self._name, metrics, health)
        self._workers = Workers(options.in_flight, name="seqpar-request")
        self._lock = threading.Lock()
        self._served: ServedModel | None = None
        self._served_version: str | None = None  # of the model, as of the latest answer
        self._failures = 0
        self._checked_at = 0  # `_doubts` as of the latest check
        self._gives_up = self._closed = False

    @property
    def name(self) -> str:
        """The server's address without credentials, for messages."""
        return self._name

    @property
    def label_set(self) -> LabelSet:
        """The label set of the server's model. Raises ServerError."""
        return self._known().label_set

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds of the states on the server, or None without. Raises ServerError."""
        return self._known().thresholds

    @property
    def digest(self) -> str:
        """The digest of the server's bundle. Raises ServerError."""
        return self._known().digest

    @property
    def stats(self) -> ServerStats:
        """The counts so far."""
        return self._meter.stats

    def check(self, *, label_set: LabelSet | None = None) -> None:
        """Read the model's description from the server, once, without a retry.

        Args:
            label_set: The label set that the model must have. Default: that of the check before, if any.

        Raises:
            ServerUnavailableError: The server does not answer, or is not ready.
            ServerError: The server refuses, the model is none of seqpar-deploy, or it has another label set.
        """
        self._check(label_set)

    def _check(self, label_set: LabelSet | None = None, *, again: bool = False) -> ServedModel:
        if label_set is None and self._served is not None:
            label_set = self._served.label_set
        doubts = self._doubts
        self._meter.sent(again=again)
        try:
            served = served_model(self._transport.parameters(self._options.timeout))
            if label_set is not None and (difference := label_difference(label_set, served.label_set)):
                raise ServerError(f"it must have a label set with {difference}; serve the bundle that was there before")
        except ServerError as error:
            raise self._failed(error) from error
        self._meter.answered()
        with self._lock:
            before, self._served = self._served, served
            self._checked_at = doubts
        if before is not None and before.digest != served.digest:
            _log.warning("%s: it has another bundle now, %.12s, not %.12s", self._name, served.digest, before.digest)
        return served

    def predict(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> list[Prediction]:
        """Recognise the attributes of each crop on the server.

        Args:
            crops: Crops of one person each, uint8 RGB (h, w, 3) of any size.
            drafts: A guess of each crop's tokens, for example `Prediction.tokens` of the same person in an earlier
                frame, or None for a crop without one. Drafts never change a prediction. Default: none.

        Returns:
            One prediction per crop, in the same order.

        Raises:
            ImageError: A crop is not a uint8 RGB image. No crop is sent.
            StrategyError: A draft has a token that is not in the vocabulary, or there is not one draft per crop.
            ServerUnavailableError: The server gave no usable answer within `give_up_after`.
            ServerError: The server refuses a request, or its answer does not fit the label set.
        """
        return list(self.predict_iter(crops, drafts=drafts))

    def predict_iter(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> Iterator[Prediction]:
        """Recognise the attributes of each crop on the server, and yield the predictions as they arrive, in order.

        Args:
            crops: As of `predict`.
            drafts: As of `predict`.

        Yields:
            One prediction per crop.

        Raises:
            SeqparError: As `predict`.
        """
        for index, crop in enumerate(crops):
            check_crop(crop, f"crops[{index}]")
        if not crops:
            return
        if drafts is not None:
            try:
                check_drafts(drafts, len(crops), self.label_set.vocabulary_size)
            except ValueError as error:
                raise StrategyError(str(error)) from None
        self._known()
        waiting: collections.deque[Future[Prediction]] = collections.deque()
        over = threading.Event()  # nobody waits for the answers any more
        try:
            for crop, draft in zip(crops, drafts or [None] * len(crops), strict=True):
                waiting.append(self._workers.submit(functools.partial(self._recognize, crop, draft, over)))
                if len(waiting) >= 2 * self._options.in_flight:  # answers that wait for an earlier one hold no place
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except CancelledError:
            raise ServerError(f"{self._name}: {_CLOSED}") from None
        finally:
            over.set()
            for future in waiting:
                future.cancel()

    def give_up(self) -> None:
        """Retry no more: each request fails at its first failure from now on. Safe in a signal handler."""
        self._gives_up = True

    def close(self) -> None:
        """Close the connections. Requests in flight fail. Safe to call twice."""
        self._closed = True
        self._transport.close()
        self._workers.close()
        self._meter.close()

    def __enter__(self) -> RemoteRecognizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _known(self) -> ServedModel:
        if self._closed:
            raise ServerError(f"{self._name}: {_CLOSED}")
        return self._served or self._check()

    def _recognize(self, crop: Crop, draft: Draft, over: threading.Event) -> Prediction:
        """Send one crop until it is answered, or until nobody waits for it. Runs in one of the workers."""
        last = time.monotonic() + self._options.give_up_after
        pause, again = _FIRST_PAUSE, False
        while True:
            try:
                return self._attempt(crop, draft, again=again)
            except ServerUnavailableError:
                retry_at = time.monotonic() + pause * random.uniform(0.5, 1.5)  # clients do not come back all at once
                if retry_at > last or not self._wait_until(retry_at, over):
                    raise
            pause, again = min(2 * pause, _LONGEST_PAUSE), True

    def _attempt(self, crop: Crop, draft: Draft, *, again: bool) -> Prediction:
        served = self._known()
        if self._doubts != self._checked_at:
            served, again = self._check(again=again), False
        tensors, begun = request_tensors(crop, draft, served.label_set), time.monotonic()
        self._meter.sent(again=again)
        try:
            answer = self._transport.infer(tensors, OUTPUTS, self._options.timeout)
            prediction = prediction_of(answer.outputs, served.label_set)
        except ServerError as error:
            raise self._failed(error) from error
        self._meter.answered(time.monotonic() - begun)
        changed = self._served_version not in (None, answer.model_version)
        self._served_version = answer.model_version
        if changed or self._doubts != self._checked_at:
            self._check()  # the answer counts only if the server has the same label set
        return prediction

    @property
    def _doubts(self) -> int:
        """Number of failures and of lost connections so far: after each, the server may be another one."""
        return self._failures + self._transport.lost

    def _failed(self, error: ServerError) -> ServerError:
        """Count a failure, and return the error with the server's name."""
        away = isinstance(error, ServerUnavailableError)
        if not self._closed:
            self._meter.failed(str(error), away=away)
        if away:
            with self._lock:
                self._failures += 1
        return type(error)(f"{self._name}, model {self._model}: {error}")

    def _wait_until(self, end: float, over: threading.Event) -> bool:
        """Wait, and return False if retries have ended meanwhile."""
        while not (self._gives_up or self._closed):
            left = end - time.monotonic()
            if left <= 0:
                return not over.is_set()
            if over.wait(min(left, _LOOK_EVERY)):
                return False
        return False


def _open_transport(address: ServerAddress, model: str, *, token: str | None, ca: Path | None) -> Transport:
    """Return the transport of an address. Nothing is connected."""
    authorization = f"Bearer {token}" if token else address.authorization
    kind = GrpcTransport if address.protocol == "grpc" else HttpTransport
    return kind(address, model, authorization=authorization, ca=ca)
