"""Answers that no sound server gives. Each is a `Fault` of `kserve`."""

from __future__ import annotations

import json
import socket
import threading
import time

from serving.kserve import Exchange, Fault

RELEASE = threading.Event()  # set at the end of a test: nobody waits for a slow server


def status(code: int, content: bytes = b"<html>busy</html>") -> Fault:
    """Answer with a status, for example of a proxy."""
    return lambda exchange, _content, _headers: exchange.answer(code, content)


def error(code: int, text: str) -> Fault:
    """Answer with Triton's form of an error."""
    return status(code, json.dumps({"error": text}).encode())


def slow(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    RELEASE.wait(20)
    exchange.close_connection = True


def drips(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    """Send the answer byte by byte, each in time."""
    _head(exchange, len(content), headers)
    for byte in content:
        if RELEASE.wait(0.1):
            return
        exchange.wfile.write(bytes([byte]))
        exchange.wfile.flush()


def cut_off(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    _head(exchange, len(content), headers)
    exchange.wfile.write(content[: len(content) // 2])
    _close(exchange)


def no_answer(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    _close(exchange)


def garbage(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    exchange.answer(200, bytes(range(256)) * 4)


def no_http(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    exchange.wfile.write(b"\x16\x03\x01 hello\r\n\r\n")
    _close(exchange)


def deep(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    """Send JSON that is nested too deeply to be read."""
    nested = b"[" * 200_000
    exchange.answer(200, nested, {"Inference-Header-Content-Length": str(len(nested))})


def infinite(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    """Send a tensor of infinite length."""
    head = b'{"outputs":[{"name":"tokens","datatype":"INT32","shape":[Infinity],"parameters":{"binary_data_size":0}}]}'
    exchange.answer(200, head, {"Inference-Header-Content-Length": str(len(head))})


def shorter(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    """Declare more tensors than there are."""
    exchange.answer(200, content[:-5], headers)


def huge(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
    _head(exchange, 1 << 40, headers)
    part = b" " * (1 << 20)
    for _ in range(64):
        exchange.wfile.write(part)
    _close(exchange)


def late(seconds: float) -> Fault:
    """Give the right answer after some time."""

    def fault(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
        time.sleep(seconds)
        exchange.answer(200, content, headers)

    return fault


def gathered(many: int) -> Fault:
    """Answer once so many requests were in flight at a time, or after 2 s."""

    def fault(exchange: Exchange, content: bytes, headers: dict[str, str]) -> None:
        end = time.monotonic() + 2
        while exchange.server.fake.most_in_flight < many and time.monotonic() < end:
            time.sleep(0.005)
        exchange.answer(200, content, headers)

    return fault


def _head(exchange: Exchange, length: int, headers: dict[str, str]) -> None:
    exchange.send_response(200)
    for name, value in headers.items():
        exchange.send_header(name, value)
    exchange.send_header("Content-Length", str(length))
    exchange.end_headers()


def _close(exchange: Exchange) -> None:
    exchange.close_connection = True
    exchange.wfile.flush()
    exchange.connection.shutdown(socket.SHUT_RDWR)
