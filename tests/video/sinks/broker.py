"""As much of an MQTT 3.1.1 broker as a publisher needs: takes a connection, notes what is published, acknowledges."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading


class Broker:
    """Listens on a port of 127.0.0.1 (0: a free one). A context manager. It answers with the CONNACK code `refuse`."""

    def __init__(
        self, port: int = 0, *, refuse: int = 0, acknowledge: bool = True, tls: ssl.SSLContext | None = None
    ) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.retained: list[tuple[str, bytes]] = []  # not among `messages`
        self.arrived = threading.Condition()
        self.client_ids: list[str] = []
        self.connects: list[bytes] = []
        self._refuse, self._acknowledge, self._tls = refuse, acknowledge, tls
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._clients: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()  # it may just have taken one more
        self._listener.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()

    def wait(self, count: int, seconds: float = 10) -> bool:
        with self.arrived:
            return self.arrived.wait_for(lambda: len(self.messages) >= count, seconds)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError, IndexError), contextlib.ExitStack() as stack:
            if self._tls:
                client = stack.enter_context(
                    self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
                )
                self._clients.append(client)  # which `__exit__` closes, also in the middle of a handshake
                client.do_handshake()
            file = stack.enter_context(client.makefile("rb"))
            while head := file.read(1):
                body = file.read(_length(file))
                kind, flags = head[0] >> 4, head[0] & 15
                if kind == 1:
                    self.connects.append(body)
                    self.client_ids.append(body[12 : 12 + int.from_bytes(body[10:12], "big")].decode("ascii"))
                    client.sendall(bytes((0x20, 2, 0, self._refuse)))
                elif kind == 3:
                    assert flags >> 1 & 3 == 1  # QoS 1
                    size = int.from_bytes(body[:2], "big")
                    if self._acknowledge:
                        client.sendall(b"\x40\x02" + body[2 + size : 4 + size])
                    with self.arrived:
                        (self.retained if flags & 1 else self.messages).append(
                            (body[2 : 2 + size].decode("utf-8"), body[4 + size :])
                        )
                        self.arrived.notify_all()
                elif kind == 12:
                    client.sendall(b"\xd0\x00")


def _length(file: object) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)[0]  # type: ignore[attr-defined]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
