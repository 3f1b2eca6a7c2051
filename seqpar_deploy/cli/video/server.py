"""Open the web server of `seqpar video`, and log who may read it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from seqpar_deploy.cli.video.request import VideoRequest
from seqpar_deploy.video.sinks.access import TOKEN, find_token, is_local
from seqpar_deploy.video.sinks.server import Post, Route, WebServer

_log = logging.getLogger(__name__)


def open_web_server(
    request: VideoRequest, routes: Mapping[str, Route], posts: Mapping[str, Post] | None = None, *, log: bool = True
) -> WebServer:
    """Open the server of --serve. `posts` are as of `WebServer`."""
    token = find_token(request.serve_token, request.environment)
    address = request.address or "127.0.0.1"
    web = WebServer(
        routes, posts=posts, token=token, address=address, port=request.serve or 0, base_url=request.base_url
    )
    if not log:
        return web
    if request.base_url:
        _log.info("preview, /metrics and /healthz at %s, from %s", request.base_url, web.url)
    else:
        _log.info("preview, /metrics and /healthz at %s", web.url)
    if not is_local(address.strip("[]")):
        if token is None:
            _log.warning(
                "%s admits other machines, and there is no token, so that every page is refused but /metrics and "
                "/healthz; add --serve-token FILE, or set %s",
                *(address, TOKEN),
            )
        else:
            _log.info("pages need the token: add ?token=TOKEN to the address once; /metrics and /healthz need none")
    return web
