"""Finds out whether a URL is a recording, a live stream or a camera's snapshot: by its suffix, else by its answer."""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path
from typing import Literal
from urllib.parse import urljoin, urlsplit

from seqpar_deploy import redaction
from seqpar_deploy.errors import VideoError
from seqpar_deploy.images import picture_suffixes
from seqpar_deploy.video.sources import web
from seqpar_deploy.video.sources.playlist import first_variant, is_complete, is_playlist

Kind = Literal["recording", "stream", "snapshot"]

_RECORDINGS = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v")  # recordings without a question
_ASKING = 2.0  # seconds for all questions together, which run at the same time
_LONGEST_PLAYLIST = 4_000_000  # bytes: a day in segments of 2 s is 2 MB
# Snapshot addresses of common cameras, for one that does not answer: snapshot.cgi, snap.jpg, axis-cgi/jpg/image.cgi,
# ISAPI/.../picture, api.cgi?cmd=Snap
_SNAPSHOT = re.compile(r"snap|/jpe?g/|/image\.cgi|/picture\?", re.IGNORECASE)

_log = logging.getLogger(__name__)


def kinds_of(urls: list[str]) -> dict[str, Kind]:
    """Return the kind of each URL. HTTP servers are asked if the suffix does not tell, for 2 s at most in all."""
    found: dict[str, Kind] = {url: _by_name(url) for url in urls}
    answers: dict[str, Kind] = {}

    def ask(url: str) -> None:
        if answer := _by_answer(url):
            answers[url] = answer

    asked = [url for url in urls if urlsplit(url).scheme in ("http", "https") and _suffix(url) not in _RECORDINGS]
    threads = {url: threading.Thread(target=ask, args=(url,), name="ask", daemon=True) for url in asked}
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + _ASKING
    for url, thread in threads.items():
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            _log.info("%s: no answer in %g s, read as live; --recorded overrides", redaction.shown(url), _ASKING)
    return found | answers.copy()


def has_declared_length(url: str) -> bool:
    """Return whether a server says how long its answer is, so that an early end is a fault. False if unknown."""
    if urlsplit(url).scheme not in ("http", "https"):
        return False
    try:
        with web.opened(url, seconds=_ASKING, headers={"Range": "bytes=0-"}) as response:
            return _length(response.headers.get("Content-Range"), response.headers.get("Content-Length")) is not None
    except VideoError:
        return False


def _by_name(url: str) -> Kind:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return "stream"
    if _suffix(url) in _RECORDINGS:
        return "recording"
    named = _suffix(url) in picture_suffixes() or _SNAPSHOT.search(f"{parts.path}?{parts.query}")
    return "snapshot" if named else "stream"


def _by_answer(url: str) -> Kind | None:
    """Return the kind of an HTTP URL by the first bytes of its answer. None if it does not tell."""
    try:
        with web.opened(url, seconds=_ASKING, headers={"Range": "bytes=0-"}) as response:
            kind = response.headers.get("Content-Type", "").lower()
            length = _length(response.headers.get("Content-Range"), response.headers.get("Content-Length"))
            if kind.startswith("multipart/"):
                return "stream"
            if kind.startswith("image/") and kind != "image/gif":
                return "snapshot"
            begin = b"" if length is None else response.read(11)
            if is_playlist(urlsplit(url).path) or "mpegurl" in kind or begin.startswith(b"#EXTM3U"):
                rest = web.read(response, most=_LONGEST_PLAYLIST, seconds=_ASKING, stop=threading.Event())
                return _by_playlist(url, (begin + rest).decode("utf-8", "replace"))
    except VideoError:
        return None
    if begin.startswith((b"\xff\xd8\xff", b"\x89PNG")):
        return "snapshot"
    is_text = bool(re.fullmatch(rb"[\t\r\n -~]*", begin))  # a page, for example of an error; its type may be wrong
    return "recording" if length is not None and not is_text else None


def _by_playlist(url: str, text: str) -> Kind | None:
    if first := first_variant(text):
        with web.opened(urljoin(url, first), seconds=_ASKING) as response:
            body = web.read(response, most=_LONGEST_PLAYLIST, seconds=_ASKING, stop=threading.Event())
        text = body.decode("utf-8", "replace")
    if not text.startswith("#EXTM3U"):
        return None
    return "recording" if is_complete(text) else "stream"


def _length(content_range: str | None, content_length: str | None) -> int | None:
    """Return the total length of an answer in bytes. None if the server does not say it, as for a live stream."""
    if content_range:
        content_length = content_range.rpartition("/")[2]
    return int(content_length) or None if content_length and content_length.isdecimal() else None


def _suffix(url: str) -> str:
    return Path(urlsplit(url).path).suffix.lower()
