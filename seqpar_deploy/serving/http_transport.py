"""KServe V2 over HTTP, with tensors in binary, on the connections of `http.client`.

tritonclient's HTTP client is not used: none of its methods may be called from two threads, it runs an event loop of
gevent in each of them, and it bounds each read of an answer, but not the whole.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seqpar_deploy.errors import ServerError, ServerUnavailableError
from seqpar_deploy.serving.address import ServerAddress
from seqpar_deploy.serving.protocol import Tensor
from seqpar_deploy.serving.transport import CONNECT_WITHIN, MOST_ANSWER, Answer, no_answer, refusal

_JSON_LENGTH = "Inference-Header-Content-Length"
_REFUSES_REQUEST = (400, 404, 405, 406, 411, 413, 414, 415, 422)
_CHUNK = 1 << 16  # bytes
_UNREADABLE = "it gives an answer that is no KServe V2 inference; check the address, and proxies before the server"


class HttpTransport:
    """Send requests over connections that are kept open, one per request in flight."""

    def __init__(self, address: ServerAddress, model: str, *, authorization: str | None, ca: Path | None) -> None:
        self._address = address
        self._model = f"{address.path}/v2/models/{quote(model, safe='')}"
        self._headers = {"Authorization": authorization} if authorization else {}
        self._tls = tls_context(ca) if address.secure else None
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self.lost = 0
        self._closed = False
        self._lock = threading.Lock()

    def parameters(self, within: float) -> Mapping[str, str]:
        values = _json(self._exchange("GET", f"{self._model}/config", b"", {}, within)[1])
        parameters = values.get("parameters") or {}
        try:
            return {name: str(one["string_value"]) for name, one in parameters.items()}
        except (AttributeError, KeyError, TypeError):
            raise ServerUnavailableError(_UNREADABLE) from None

    def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str], within: float) -> Answer:
        wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        head = json.dumps({"inputs": [_described(tensor) for tensor in inputs], "outputs": wanted}).encode()
        body = b"".join([head, *(tensor.data for tensor in inputs)])
        headers = {"Content-Type": "application/octet-stream", _JSON_LENGTH: str(len(head))}
        answer, content = self._exchange("POST", f"{self._model}/infer", body, headers, within)
        try:
            return _answer(answer, content)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise ServerUnavailableError(_UNREADABLE) from None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, busy = self._idle, list(self._busy)
            self._idle = []
        for connection in idle:
            connection.close()
        for connection in busy:  # the thread that uses it closes it
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], within: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request, and return the answer with its content if its status is 200."""
        begun = time.monotonic()
        deadline = begun + within
        connection = self._take(within)
        try:
            if connection.sock is None:
                connection.connect()
            sock = connection.sock
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            connection.request(method, path, body, {**self._headers, **headers})
            answer = connection.getresponse()
            content = _read(answer, sock, deadline)
        except BaseException as error:
            self._give_back(connection, usable=False)
            if isinstance(error, (OSError, http.client.HTTPException, ValueError)):
                raise self._why(error, time.monotonic() - begun) from error
            raise
        self._give_back(connection, usable=not answer.will_close)
        if answer.status != 200:
            raise _refused(answer.status, content)
        return answer, content

    def _take(self, within: float) -> http.client.HTTPConnection:
        """Return an idle connection that the server has not closed, or a new one."""
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not _has_ended(connection.sock):
                    self._busy.add(connection)
                    return connection
                connection.close()
                self.lost += 1
            connection = self._new(min(within, CONNECT_WITHIN))
            self._busy.add(connection)
        return connection

    def _new(self, within: float) -> http.client.HTTPConnection:
        host, port = self._address.host, self._address.port
        if self._tls is None:
            return http.client.HTTPConnection(host, port, timeout=within)
        return http.client.HTTPSConnection(host, port, timeout=within, context=self._tls)

    def _give_back(self, connection: http.client.HTTPConnection, *, usable: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if usable and not self._closed:
                self._idle.append(connection)
                return
            self.lost += 1
        connection.close()

    def _why(self, error: Exception, waited: float) -> ServerUnavailableError:
        if self._closed:
            return ServerUnavailableError("it is not asked any more: this recognizer is closed")
        if isinstance(error, TimeoutError):
            return no_answer(waited)
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"it has a certificate that is not accepted: {error.verify_message}; give the file of its CA"
        elif isinstance(error, ssl.SSLError):
            why = f"it cannot be connected by TLS: {(error.reason or 'unknown').lower().replace('_', ' ')}"
        elif isinstance(error, socket.gaierror):
            why = f"it cannot be found: the name {self._address.host} has no address; check it"
        elif isinstance(error, ConnectionRefusedError):
            why = f"it cannot be reached: connection refused; check that it runs, and the port {self._address.port}"
        elif isinstance(error, (ConnectionError, http.client.IncompleteRead)):
            why = "it closed the connection before its answer was complete"
        elif isinstance(error, OSError):
            why = f"it cannot be reached: {error.strerror or type(error).__name__}"
        else:
            why = _UNREADABLE
        return ServerUnavailableError(why)


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that checks certificates against the system's CAs, or those in a file. Raises ServerError."""
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        raise ServerError(f"the CA file {ca} must hold certificates (PEM), got {error.strerror}; check it") from None


def _read(answer: http.client.HTTPResponse, sock: socket.socket, deadline: float) -> bytes:
    """Read the whole content of an answer, within the deadline."""
    length = answer.length
    content = bytearray()
    with answer:
        while length is None or len(content) < length:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if sock.fileno() != -1:  # closed already if the answer is the last of its connection
                sock.settimeout(left)
            if not (part := answer.read1(_CHUNK)):
                break
            content += part
            if len(content) > MOST_ANSWER:
                raise ValueError(f"more than {MOST_ANSWER} bytes")
    if length is not None and len(content) < length:
        raise http.client.IncompleteRead(bytes(content), length - len(content))
    return bytes(content)


def _has_ended(sock: socket.socket) -> bool:
    """Return whether the server has closed an idle connection: it is readable then."""
    poll = select.poll()  # `select.select` fails from the 1,024th open file on
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _refused(status: int, content: bytes) -> ServerError:
    if status in (401, 403, 407):
        return ServerError(f"it refuses the credentials (HTTP {status}); check the token, or user and password")
    if 300 <= status < 400:
        return ServerError(f"it redirects to another address (HTTP {status}); pass that one")
    text = ""
    with contextlib.suppress(ServerUnavailableError):
        text = str(_json(content).get("error") or "")
    return refusal(text or f"HTTP {status}", of_request=status in _REFUSES_REQUEST)


def _described(tensor: Tensor) -> dict[str, Any]:
    size = {"binary_data_size": len(tensor.data)}
    return {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "parameters": size}


def _answer(answer: http.client.HTTPResponse, content: bytes) -> Answer:
    """Split the content of an answer into its JSON and its tensors."""
    end = int(answer.headers[_JSON_LENGTH])
    values = json.loads(content[:end])
    outputs = {}
    for output in values["outputs"]:
        size = int(output["parameters"]["binary_data_size"])
        if not 0 <= size <= len(content) - end:
            raise ValueError("the tensors are shorter than their sizes")
        data = content[end : end + size]
        shape = tuple(int(length) for length in output["shape"])
        name, datatype = str(output["name"]), str(output["datatype"])
        outputs[name] = Tensor(name=name, datatype=datatype, shape=shape, data=data)
        end += size
    return Answer(outputs=outputs, model_version=str(values.get("model_version", "")))


def _json(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ServerUnavailableError(_UNREADABLE)
    return values
