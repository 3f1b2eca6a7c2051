"""Answers of the web server, and the functions that give them, found by path."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from seqpar_deploy.errors import SeqparError
from seqpar_deploy.redaction import redacted

Function = TypeVar("Function")

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


# Takes the rest of the path after the route, for example a number, which may be empty. Returns None for "not found".
Route = Callable[[str], "Answer | None"]

# Takes the rest of the path after the route, and the body, at most 1 MB. A SeqparError becomes an answer with status
# 400 and the error's line.
Post = Callable[[str, bytes], Answer]


def line(text: str, status: int = 200) -> Answer:
    """Return an answer of one line."""
    return Answer(body=f"{text}\n".encode("utf-8", "replace"), status=status)


def answer_of(post: Post, rest: str, body: bytes) -> Answer:
    """Return the answer of a function, also if it raises."""
    try:
        return post(rest, body)
    except SeqparError as error:
        return line(redacted(str(error)), 400)
    except Exception:
        _log.exception("a request failed")
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
