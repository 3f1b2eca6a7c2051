"""Adds events to a Redis stream of bounded length. The only place that imports redis."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from seqpar_deploy.errors import SinkError
from seqpar_deploy.redaction import remember, split_address
from seqpar_deploy.video.sinks.address import bracketed, host_and_port
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.fan_out import one_line
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.outbox import Message, Outbox, UndeliveredError, message_of
from seqpar_deploy.video.types import Event, ZoneEvent

if TYPE_CHECKING:
    from redis import Redis

STREAM = "seqpar"  # default name of the stream
MOST = 100_000  # default number of entries

_PORTS = {"redis": 6379, "rediss": 6379}
_WITHIN = 5.0  # seconds for a connection, and for an answer
_BATCH = 100  # events per transaction


class RedisSink(BaseSink):
    """Adds each event, as in docs/reference/events.md, to a Redis stream with `XADD`.

    The pipeline never waits for Redis. While it is away, events are queued, and the sink retries with pauses of 1 s to
    30 s. Events stay in order. An event may be added twice if the connection is lost between the transaction and its
    answer. Both entries have the same `id`.

    An entry has the fields `event` (JSON), `stream`, `kind`, `track_id` (empty for a count) and `id`.

    Args:
        address: `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB[/STREAM]]`, or `rediss://` for TLS. The default port is
            6379, the default database 0, and the default stream `seqpar`. %XX stands for a special character.
        most: Number of entries to keep in the stream. Redis may keep a few more (`MAXLEN ~`). Default: 100,000.
        ca: File of CA certificates (PEM) to check the server's certificate against. Default: those of the system.
        outbox: Maximum number of queued events. If it is full, the oldest is dropped. Default: 10,000.
        linger: Seconds that `close` waits without progress. Default: 3.
        metrics: Metrics that count events. Default: not published.
        health: Health checks that report a server that fails. Default: not published.

    Raises:
        SinkError: The address or the file is invalid, or redis is not installed. `close` raises it if events were lost.

    Example:
        watch("rtsp://camera/1", recognizer, sinks=[RedisSink("redis://localhost/0/people")])
    """

    def __init__(
        self,
        address: str,
        *,
        most: int = MOST,
        ca: Path | None = None,
        outbox: int = 10_000,
        linger: float = 3.0,
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        if most < 1:
            raise SinkError(f"the length of a Redis stream must be 1 or more, got {most}; pass another number")
        self._server = server = RedisServer(address, ca=ca)
        self._most = most
        self._outbox = Outbox(
            f"redis {server.shown}",
            self._deliver,
            abort=server.abort,
            most=outbox,
            batch=_BATCH,
            linger=linger,
            metrics=metrics,
            health=health,
        )
        self.name = self._outbox.name

    def event(self, event: Event | ZoneEvent) -> None:
        self._outbox.put(message_of(event))

    zone = event

    def delete_before(self, time: datetime.datetime) -> int:
        """Remove entries that were added before a time, by the clock of the Redis server.

        Args:
            time: The time, with a time zone.

        Returns:
            Number of entries removed.

        Raises:
            SinkError: Redis does not answer, or is older than 6.2.
        """
        return self._server.trim(time)

    def close(self) -> None:
        try:
            self._outbox.close()
        finally:
            self._server.close()

    def _deliver(self, messages: Sequence[Message]) -> None:
        self._server.add(messages, self._most)


class RedisServer:
    """A connection to a Redis stream. Threads may share it.

    Raises:
        SinkError: The address or the file is invalid, or redis is not installed.
    """

    def __init__(self, address: str, *, ca: Path | None = None) -> None:
        self._place = place = _read_address(address)
        self.shown = place.shown
        if ca is not None and not place.secure:
            raise SinkError("--redis-ca needs a rediss:// address, got redis://; write rediss://, or omit it")
        if ca is not None and not ca.is_file():
            raise SinkError(f"--redis-ca must be a file of certificates (PEM), got {ca}; check the path")
        if ca is not None:
            try:
                ssl.create_default_context(cafile=ca)
            except OSError as error:  # ssl.SSLError is one
                raise SinkError(
                    f"--redis-ca {ca} must hold certificates (PEM), got {error.strerror}; check it"
                ) from None
        self._client = _client(place, ca)

    def check(self) -> None:
        """Connect, and check the type of the stream. Nothing is written. Raises SinkError."""
        try:
            self._in_words(self._checked)
        except UndeliveredError as error:
            raise SinkError(f"redis {self.shown}: it {error}") from None
        finally:
            self.close()

    def add(self, messages: Sequence[Message], most: int) -> None:
        """Add messages in one transaction. Raises UndeliveredError."""
        self._in_words(lambda: self._added(messages, most))

    def trim(self, time: datetime.datetime) -> int:
        """Remove the entries before a time. Raises SinkError."""
        first = round(1000 * time.timestamp())
        try:
            return int(
                self._in_words(lambda: self._client.xtrim(self._place.stream, minid=str(first), approximate=False))
            )
        except UndeliveredError as error:
            raise SinkError(f"entries cannot be removed: redis {error}") from None

    def abort(self) -> None:
        """End calls of other threads."""
        with contextlib.suppress(Exception):
            self._client.connection_pool.disconnect(inuse_connections=True)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._client.close()

    def _checked(self) -> None:
        kind = self._client.type(self._place.stream)
        if kind not in (b"none", b"stream", "none", "stream"):
            raise UndeliveredError(_OTHER_TYPE)

    def _added(self, messages: Sequence[Message], most: int) -> None:
        with self._client.pipeline(transaction=True) as transaction:
            for message in messages:
                fields: dict[Any, Any] = {
                    "event": message.line,
                    "stream": message.stream,
                    "kind": message.kind,
                    "track_id": "" if message.track_id is None else message.track_id,
                    "id": message.id,
                }
                transaction.xadd(self._place.stream, fields, maxlen=most, approximate=True)
            transaction.execute()

    def _in_words(self, call: Any) -> Any:
        """Return the result of a call, and turn the errors of redis into UndeliveredError."""
        import redis

        try:
            return call()
        except redis.AuthenticationError:
            why = "refuses the user or the password; check both in the address"
        except redis.TimeoutError:
            why = f"does not answer within {_WITHIN:g} s; check the address and firewalls"
        except redis.ConnectionError as error:
            why = _why_lost(error, self._place)
        except redis.RedisError as error:
            text = one_line(error).rpartition("of pipeline caused error: ")[2]  # after the command, with its event
            if "NOAUTH" in text or "WRONGPASS" in text:
                why = "refuses the user or the password; check both in the address"
            elif "WRONGTYPE" in text:
                why = _OTHER_TYPE
            elif "maxmemory" in text:
                why = "has no memory left; raise its maxmemory, or lower --redis-most"
            else:
                why = f"refuses: {text.partition(': ')[2] or text}"
        raise UndeliveredError(why)


_OTHER_TYPE = "holds another type than a stream under this name; choose another name in the address"


def _why_lost(error: BaseException, place: _Place) -> str:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 5:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(map(str, causes))
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes) or "refused" in text:
        return f"does not answer: connection refused; check that it runs, and the port {place.port}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "has a certificate that is not accepted; give its CA with --redis-ca"
    if "SSL" in text:
        return "cannot be connected by TLS; check the port, and write redis:// if it has no TLS"
    if "Name or service not known" in text or "getaddrinfo" in text or "name resolution" in text:
        return f"cannot be found: the name {place.host} has no address; check it"
    if "NOAUTH" in text or "WRONGPASS" in text or "invalid username-password" in text:
        return "refuses the user or the password; check both in the address"
    return "closed the connection; check its log, and write rediss:// if its port is one for TLS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """The stream of a server. `shown` is host, port, database and stream for messages."""

    secure: bool
    host: str
    port: int
    database: int
    stream: str
    shown: str
    user: str | None = dataclasses.field(repr=False)
    password: str | None = dataclasses.field(repr=False)


def _read_address(address: str) -> _Place:
    remember(address)
    parts = split_address(address)
    found = re.fullmatch(r"(?:/(?:(\d{1,5})(?:/([^/?#]*))?)?)?", parts.rest) if parts else None
    try:
        host, port = host_and_port(parts, _PORTS)
    except ValueError:
        found = None
    if parts is None or parts.misread or found is None:
        raise SinkError(
            "the Redis address must be redis://HOST[:PORT][/DB[/STREAM]] or rediss://, got another form; write for "
            "example redis://localhost:6379/0/people, and :PASSWORD@ before HOST with special characters as %XX"
        )
    user, _, password = (unquote(part) for part in parts.userinfo.partition(":"))
    stream = unquote(found[2] or "") or STREAM
    database = int(found[1] or 0)
    if parts.path != parts.rest:
        where = parts.path
    else:
        where = "" if (database, stream) == (0, STREAM) else f"/{database}/{stream}"
    return _Place(
        secure=parts.scheme == "rediss",
        host=host,
        port=port,
        database=database,
        stream=stream,
        shown=f"{bracketed(host)}:{port}{where}",
        user=user or None,
        password=password or None,
    )


def _client(place: _Place, ca: Path | None) -> Redis:
    try:
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise SinkError("redis is not installed; pip install 'seqpar-deploy[redis]'") from None
    return Redis(
        host=place.host,
        port=place.port,
        db=place.database,
        username=place.user,
        password=place.password,
        socket_timeout=_WITHIN,
        socket_connect_timeout=_WITHIN,
        retry=Retry(NoBackoff(), 0),  # the outbox retries, and says so
        ssl=place.secure,
        ssl_ca_certs=None if ca is None else str(ca),
        protocol=2,  # the commands are those of RESP2, which servers before 6.0 speak too
    )
