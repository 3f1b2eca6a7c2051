"""Answers of the web server, and the functions that give them, found by path."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from seqpar_deploy.errors import SeqparError
from seqpar_deploy.redaction import redacted

Function = TypeVar("Function")
_Result = TypeVar("_Result")

_QUIET = 60.0  # seconds until the same error is logged again

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP response, as the functions return that a `WebServer` calls.

    Attributes:
        body: Bytes to send at once, or an iterator of pieces to send until it or the connection ends.
        type: Media type. Default: plain text.
        status: HTTP status. Default: 200.
        policy: Content-Security-Policy. Default: a page that may load nothing.
        headers: Headers in addition to those of every answer. Default: none.
    """

    body: bytes | Iterator[bytes]
    type: str = "text/plain; charset=utf-8"
    status: int = 200
    policy: str = "default-src 'none'"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


# Takes the rest of the path after the route, for example a number, which may be empty. Returns None for "not found". A
# SeqparError becomes an answer with status 500 and the error's line.
Route = Callable[[str], "Answer | None"]

# Takes the rest of the path after the route, and the body, at most 1 MB. A SeqparError becomes an answer with status
# 400 and the error's line.
Post = Callable[[str, bytes], Answer]


def line(text: str, status: int = 200) -> Answer:
    """Return an answer of one line."""
    return Answer(body=f"{text}\n".encode("utf-8", "replace"), status=status)


class Failures:
    """Logs errors of the server, each one at most once per minute: a page may ask ten times per second."""

    def __init__(self) -> None:
        self._logged: dict[tuple[str, type[BaseException]], float] = {}
        self._lock = threading.Lock()

    def log(self, what: str, error: BaseException) -> None:
        """Log an error with its traceback, unless one of its type was just logged with the same text."""
        key, now = (what, type(error)), time.monotonic()
        with self._lock:
            if now - self._logged.get(key, -math.inf) < _QUIET:
                return
            self._logged[key] = now
        _log.error("%s", what, exc_info=error)


def answer_of(function: Callable[[], _Result], route: str, failures: Failures, *, refused: int) -> _Result | Answer:
    """Return the answer of the function of a route, also if it raises. `refused` is the status of a SeqparError."""
    try:
        return function()
    except SeqparError as error:
        return line(redacted(str(error)), refused)
    except Exception as error:
        failures.log(f"a request for {route} failed", error)
        return line("the request failed; the log names the cause", 500)


def find_route(routes: Mapping[str, Function], path: str, base: str) -> tuple[str, str, Function] | None:
    """Return a route, the rest of the path and the route's function, or None.

    The public path `base` may be in front, and exact routes may end in a slash.
    """
    inside = path[len(base) :] or "/" if base and f"{path}/".startswith(f"{base}/") else path
    for one in dict.fromkeys((inside, path)):
        for route, function in routes.items():
            if one == route or (one == f"{route}/" and not route.endswith("/")):
                return route, "", function
            if route != "/" and route.endswith("/") and one.startswith(route):
                return route, one[len(route) :], function
    return None


def nothing_at(path: str, routes: Mapping[str, Route], base: str) -> Answer:
    """Return the answer to a path without a route: the routes that there are."""
    end = next((route for route in sorted(routes, key=len, reverse=True) if path.endswith(route)), "/")
    prefix = path[: -len(end)] if path.endswith(end) else ""
    lines = ["not found; this server has:", *(f"  {base}{route}" for route in routes)]
    if prefix and not base:
        lines.append(f"If a proxy passes {prefix}/ on, remove it there, or start with --base-url http://HOST{prefix}/")
    return line("\n".join(lines), 404)
