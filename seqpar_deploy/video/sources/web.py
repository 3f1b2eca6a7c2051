"""HTTP requests whose time and size are bounded, for questions about a URL and for snapshots."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from seqpar_deploy.errors import VideoError

_PIECE = 65536  # bytes per read: between two reads the time and the stop are checked
_KEPT = "%/:=&?~#+!$,;'@()*[]"  # characters of a URL that are not escaped a second time


@contextlib.contextmanager
def opened(url: str, *, seconds: float, headers: dict[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
    """Request a URL, also with `user:password@` (basic or digest), and yield the response.

    Certificates are not checked, as FFmpeg does not check those of streams: cameras sign their own. Raises VideoError
    with the cause in our words, which never contain the URL.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    bare = urlunsplit((parts.scheme, host, quote(parts.path, safe=_KEPT), quote(parts.query, safe=_KEPT), ""))
    unchecked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=unchecked),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),  # a redirection to a file or to FTP is an error
    ]
    if parts.username is not None:
        known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        known.add_password(None, f"{parts.scheme}://{host}/", unquote(parts.username), unquote(parts.password or ""))
        handlers += [_Digest(known), urllib.request.HTTPBasicAuthHandler(known)]
    director = urllib.request.OpenerDirector()
    for handler in handlers:
        director.add_handler(handler)
    with _in_our_words(seconds):
        request = urllib.request.Request(bare, headers={"User-Agent": "seqpar-deploy", **(headers or {})})
        response = director.open(request, timeout=seconds)
    with response, _in_our_words(seconds):
        yield response


def read(response: http.client.HTTPResponse, *, most: int, seconds: float, stop: threading.Event) -> bytes:
    """Return the body. Raises VideoError if it is longer than `most` bytes, takes too long, or breaks off."""
    deadline, body = time.monotonic() + seconds, bytearray()
    while piece := response.read1(_PIECE):
        body += piece
        if len(body) > most:
            raise VideoError(f"its answer must have at most {most / 1e6:g} MB, got more")
        if stop.is_set() or time.monotonic() > deadline:
            raise VideoError(f"no complete answer for {seconds:g} s")
    if response.length:
        raise VideoError("the connection was closed in the middle of an answer")
    return bytes(body)


class _Digest(urllib.request.HTTPDigestAuthHandler):
    """Knows SHA-256 too, which recent cameras ask for, and Python since 3.14."""

    def get_algorithm_impls(self, algorithm: str) -> Any:
        if algorithm.upper() != "SHA-256":
            return super().get_algorithm_impls(algorithm)

        def hashed(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        return hashed, lambda secret, data: hashed(f"{secret}:{data}")


@contextlib.contextmanager
def _in_our_words(seconds: float) -> Iterator[None]:
    try:
        yield
    except VideoError:
        raise
    except urllib.error.HTTPError as error:
        with contextlib.suppress(Exception):
            error.close()
        raise VideoError(_refusal(error.code)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = getattr(error, "reason", error)
        raise VideoError(_cause(cause if isinstance(cause, Exception) else error, seconds)) from None


def _refusal(status: int) -> str:
    if status == 401:
        return "it answered 401: user and password must be right; write http://USER:PASSWORD@HOST/PATH"
    with contextlib.suppress(ValueError):
        return f"it answered {status} {http.HTTPStatus(status).phrase}"
    return f"it answered {status}"


def _cause(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {seconds:g} s"
    if isinstance(error, socket.gaierror):
        return "its host name is unknown"
    if isinstance(error, ssl.SSLError):
        return "no TLS connection can be made"
    if isinstance(error, OSError):
        return error.strerror or "the connection was closed"
    return "its answer is not understood"
