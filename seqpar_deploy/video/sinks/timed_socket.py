"""Sockets with one deadline for all that is sent and received, where `settimeout` starts anew with each call."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any


class TimedSocket(socket.socket):
    """A TCP socket whose calls raise TimeoutError after `deadline`, a time of `time.monotonic`.

    It limits the calls that `http.client` makes: `sendall`, and `recv_into` of a file of the socket.
    """

    deadline = 0.0

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        self._limit()
        super().sendall(data, flags)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send a part of `sendall`, with TLS."""
        self._limit()
        return super().send(data, flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self._limit()
        return super().recv_into(buffer, len(buffer) if nbytes is None else nbytes, flags)

    def _limit(self) -> None:
        self.settimeout(_left(self.deadline))


class TimedTlsSocket(TimedSocket, ssl.SSLSocket):
    """A `TimedSocket` with TLS, for the `sslsocket_class` of a context."""


def connect(host: str, port: int, deadline: float, tls: ssl.SSLContext | None = None) -> TimedSocket:
    """Connect to one of the addresses of a host.

    Args:
        host: Name or address of the host. The lookup of a name has no limit but that of the system.
        port: TCP port.
        deadline: Deadline of the connection and of all later calls. Set the attribute to change it.
        tls: Context whose `sslsocket_class` is `TimedTlsSocket`. Default: no TLS.

    Raises:
        OSError: As of `socket.create_connection`. TimeoutError at the deadline.
    """
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for index, place in enumerate(places):
        try:
            # One that does not answer leaves time for the others.
            made = _connect_to(place, _left(deadline) / (len(places) - index))
            break
        except OSError:
            if index == len(places) - 1:
                raise
    try:
        if tls is not None:
            made.settimeout(_left(deadline))  # of the whole handshake
            made = tls.wrap_socket(made, server_hostname=host)  # type: ignore[assignment]
        made.deadline = deadline
    except BaseException:
        made.close()
        raise
    return made


def _connect_to(place: tuple[Any, ...], within: float) -> TimedSocket:
    """Connect to an address of `getaddrinfo`."""
    family, kind, protocol, _, address = place
    made = TimedSocket(family, kind, protocol)
    try:
        made.settimeout(within)
        made.connect(address)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as http.client sets it
    except BaseException:
        made.close()
        raise
    return made


def _left(deadline: float) -> float:
    """Return the seconds until a deadline. Raises TimeoutError."""
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("the deadline has passed")
    return left
