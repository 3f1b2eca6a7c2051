"""Posts events to an HTTP address, each signed, and again until they are taken."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import email.utils
import hashlib
import hmac
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import seqpar_deploy
from seqpar_deploy.errors import SinkError
from seqpar_deploy.redaction import remember, remember_value, split_address
from seqpar_deploy.video.sinks.address import host_and_port
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.outbox import Message, Outbox, RefusedError, UndeliveredError, message_of
from seqpar_deploy.video.sinks.timed_socket import TimedSocket, TimedTlsSocket, connect
from seqpar_deploy.video.types import Event, ZoneEvent

SIGNATURE, EVENT_ID = "X-Seqpar-Signature", "X-Seqpar-Event-Id"

_PORTS = {"http": 80, "https": 443}
_WITHIN = 10.0  # seconds for a request and its answer, with the connection
_MOST_ANSWER = 1 << 16  # bytes of an answer that are read, so that the connection can be kept
_LONGEST_SECRET = 1 << 12  # bytes
_SHORTEST_SECRET = 16  # characters; a shorter one could be guessed from one signature
_RETRIED = (408, 425, 429)  # and from 500 on

_Result = TypeVar("_Result")


class WebhookSink(BaseSink):
    """Posts each event, as in docs/reference/events.md, as JSON to an HTTP address.

    The pipeline never waits for the receiver. An event is taken if the receiver answers 2xx within 10 s. After 408,
    425, 429, 5xx and lost connections it is sent again, with pauses of 1 s to 30 s or as `Retry-After` says, up to 5
    minutes. Any other answer drops the event, which is counted. Redirects are not followed and proxies are not used.
    Events stay in order.

    Each request has the header `X-Seqpar-Event-Id`, which is the same when an event is sent again. With a secret it has
    `X-Seqpar-Signature: t=TIME,v1=HEX`, see `signature`.

    Args:
        address: `https://[USER:PASSWORD@]HOST[:PORT][/PATH][?QUERY]`, or http://. %XX stands for a special character in
            user and password.
        secret: Secret of the signature, 16 characters or more. Default: requests are not signed.
        ca: File of CA certificates (PEM) to check the receiver's certificate against. Default: those of the system.
        outbox: Maximum number of queued events. If it is full, the oldest is dropped. Default: 10,000.
        linger: Seconds that `close` waits without progress. Default: 3.
        metrics: Metrics that count events. Default: not published.
        health: Health checks that report a receiver that fails. Default: not published.

    Raises:
        SinkError: The address, the secret or the file is invalid. `close` raises it if events were lost.

    Example:
        watch("rtsp://camera/1", recognizer, sinks=[WebhookSink("https://example.com/people", secret=secret)])
    """

    def __init__(
        self,
        address: str,
        *,
        secret: str | None = None,
        ca: Path | None = None,
        outbox: int = 10_000,
        linger: float = 3.0,
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        self._secret = None if secret is None else check_secret(secret, "the webhook's secret").encode()
        self._receiver = Receiver(address, ca=ca)
        self._outbox = Outbox(
            f"webhook {self._receiver.shown}",
            self._deliver,
            abort=self._receiver.close,
            most=outbox,
            batch=1,
            linger=linger,
            metrics=metrics,
            health=health,
        )
        self.name = self._outbox.name

    def event(self, event: Event | ZoneEvent) -> None:
        self._outbox.put(message_of(event))

    zone = event

    def close(self) -> None:
        self._outbox.close()

    def _deliver(self, messages: Sequence[Message]) -> None:
        (message,) = messages
        body = message.line.encode("utf-8")
        headers = {"Content-Type": "application/json", EVENT_ID: message.id}
        if self._secret is not None:
            headers[SIGNATURE] = signature(body, self._secret, int(time.time()))
        self._receiver.post(body, headers)


def signature(body: bytes, secret: bytes, timestamp: int) -> str:
    """Return the value of `X-Seqpar-Signature`.

    Args:
        body: Body of the request.
        secret: The secret.
        timestamp: Time of the request in seconds since 1970. It is signed too, so that a receiver can refuse requests
            that are sent again by somebody else.

    Returns:
        `t=TIMESTAMP,v1=HEX`, where HEX is the HMAC-SHA256 of `TIMESTAMP.BODY`.

    Example:
        >>> signature(b"{}", b"0123456789abcdef", 1700000000)[:15]
        't=1700000000,v1'
    """
    digest = hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def check_secret(secret: str, name: str) -> str:
    """Return a secret, and remember it as one. Raises SinkError, which does not quote it."""
    if len(secret) < _SHORTEST_SECRET:
        raise SinkError(
            f"{name} must have {_SHORTEST_SECRET} characters or more, got {len(secret)}; make one with "
            "`openssl rand -hex 32`"
        )
    remember_value(secret)
    return secret


def read_secret(path: Path) -> str:
    """Read a secret from a file, without the white space around it. Raises SinkError."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_SECRET + 1)
        text = content.decode("utf-8").strip()
    except OSError as error:
        raise SinkError(f"--webhook-secret {path} cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise SinkError(f"--webhook-secret {path} must be text in UTF-8, got another encoding; save it again") from None
    if len(content) > _LONGEST_SECRET:
        raise SinkError(f"--webhook-secret {path} must have at most {_LONGEST_SECRET} bytes, got more; check the path")
    return check_secret(text, f"the secret in {path}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where to post. `target` is path and query, which may hold a token."""

    secure: bool
    host: str
    port: int
    shown: str
    target: str = dataclasses.field(repr=False)
    headers: Mapping[str, str] = dataclasses.field(repr=False)


class Receiver:
    """Posts to one address over a connection that is kept open. One thread posts, any thread may close.

    Raises:
        SinkError: The address or the CA file is invalid.
    """

    def __init__(self, address: str, *, ca: Path | None = None, within: float = _WITHIN) -> None:
        self._place = place = _read_address(address)
        self.shown = place.shown
        if ca is not None and not place.secure:
            raise SinkError("--webhook-ca needs an https:// address, got http://; write https://, or omit it")
        self._tls = _tls_context(ca) if place.secure else None
        self._within = within
        self._connection: http.client.HTTPConnection | None = None
        self._closed = False
        self._lock = threading.Lock()

    def check(self) -> None:
        """Connect, and send nothing. Raises SinkError."""
        try:
            self._failing_in_words(lambda: self._open(self._deadline()).sock)
        except UndeliveredError as error:
            raise SinkError(f"webhook {self.shown}: it {error}") from None
        finally:
            self.close()

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Post a body. Returns if the receiver took it. Raises UndeliveredError and RefusedError."""
        kept = self._connection is not None
        deadline = self._deadline()

        def post() -> tuple[http.client.HTTPResponse, float]:
            try:
                return self._exchange(body, headers, deadline)
            except (ConnectionError, http.client.BadStatusLine):
                if not kept or self._closed:
                    raise
                return self._exchange(body, headers, deadline)  # the receiver had closed the idle connection

        answer, wait = self._failing_in_words(post)
        if 200 <= answer.status < 300:
            return
        if answer.status in _RETRIED or answer.status >= 500:
            raise UndeliveredError(f"answers HTTP {answer.status}; check its log", wait=wait)
        if 300 <= answer.status < 400:
            raise RefusedError(f"it redirects (HTTP {answer.status}); give the address that it redirects to")
        fix = {401: "check the credentials", 403: "check the secret and the credentials", 404: "check the path"}
        raise RefusedError(f"HTTP {answer.status}; {fix.get(answer.status, 'check its log')}")

    def close(self) -> None:
        """Close the connection, also under a request of another thread."""
        with self._lock:
            self._closed, connection = True, self._connection
            self._connection = None
        if connection is not None:
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _deadline(self) -> float:
        return time.monotonic() + self._within

    def _open(self, deadline: float) -> http.client.HTTPConnection:
        """Return the connection, which is made if there is none. All that it does ends at the deadline."""
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError
            place, connection = self._place, self._connection
            if connection is not None and isinstance(connection.sock, TimedSocket):
                connection.sock.deadline = deadline
                return connection
            if self._tls is None:
                connection = http.client.HTTPConnection(place.host, place.port)
            else:  # for the header Host: the port of https is left out
                connection = http.client.HTTPSConnection(place.host, place.port, context=self._tls)
            connection.auto_open = 0  # it would connect without the deadline
            self._connection = connection
        try:
            connection.sock = connect(place.host, place.port, deadline, self._tls)
            if self._closed:  # meanwhile
                raise ConnectionAbortedError
        except BaseException:
            self._drop(connection)
            raise
        return connection

    def _exchange(
        self, body: bytes, headers: Mapping[str, str], deadline: float
    ) -> tuple[http.client.HTTPResponse, float]:
        """Send a request and read its answer. Returns the answer and the seconds that it asks to wait."""
        connection = self._open(deadline)
        keep = False
        try:
            connection.request("POST", self._place.target, body, {**self._place.headers, **headers})
            answer = connection.getresponse()
            keep = _drained(answer) and not answer.will_close
        finally:
            if not keep:
                self._drop(connection)
        return answer, _retry_after(answer.headers.get("Retry-After", ""))

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if self._connection is connection:
                self._connection = None
        connection.close()

    def _failing_in_words(self, call: Callable[[], _Result]) -> _Result:
        place = self._place
        try:
            return call()
        except TimeoutError:
            why = f"does not answer within {self._within:g} s; check the address, the port {place.port} and firewalls"
        except ssl.SSLCertVerificationError as error:
            why = f"has a certificate that is not accepted: {error.verify_message}; give its CA with --webhook-ca"
        except ssl.SSLError as error:
            why = f"cannot be connected by TLS: {(error.reason or 'unknown').lower().replace('_', ' ')}; check the port"
        except socket.gaierror:
            why = f"cannot be found: the name {place.host} has no address; check it"
        except ConnectionRefusedError:
            why = f"does not answer: connection refused; check that it runs, and the port {place.port}"
        except (ConnectionError, http.client.HTTPException, ValueError):
            why = "closed the connection or gave no answer in HTTP; check the address and its log"
        except OSError as error:
            why = f"cannot be reached: {error.strerror or type(error).__name__}; check the network"
        raise UndeliveredError(why) from None


def _drained(answer: http.client.HTTPResponse) -> bool:
    """Read an answer to its end, so that its connection can be used again. Returns False if it is too long or slow."""
    size, whole = 0, False
    with answer, contextlib.suppress(OSError, http.client.HTTPException):  # the status has arrived, which counts
        while not whole and size <= _MOST_ANSWER:
            part = answer.read1(_MOST_ANSWER)
            size, whole = size + len(part), not part
    return whole


def _retry_after(value: str) -> float:
    """Return the seconds of a `Retry-After`, which is a number or a date. 0 if it is neither."""
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _read_address(address: str) -> _Place:
    remember(address)
    parts = split_address(address)
    try:
        host, port = host_and_port(parts, _PORTS)
    except ValueError:
        parts = None
    target = "" if parts is None else parts.rest.partition("#")[0]
    if parts is None or parts.misread or not re.fullmatch(r"([/?][\x21-\x7e]*)?", target):
        raise SinkError(
            "the webhook's address must be https://HOST[:PORT][/PATH] or http://, got another form; write "
            "USER:PASSWORD@ before HOST if it needs them, and special characters as %XX"
        )
    basic = base64.b64encode(unquote(parts.userinfo).encode()).decode() if parts.userinfo else None
    headers = {"User-Agent": f"seqpar-deploy/{seqpar_deploy.__version__}"}
    return _Place(
        secure=parts.scheme == "https",
        host=host,
        port=port,
        shown=str(parts).rstrip("/"),
        target=target if target.startswith("/") else f"/{target}",
        headers=headers | ({"Authorization": f"Basic {basic}"} if basic else {}),
    )


def _tls_context(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        raise SinkError(f"--webhook-ca {ca} must hold certificates (PEM), got {error.strerror}; check it") from None
    context.sslsocket_class = TimedTlsSocket
    return context
