"""Keep credentials out of everything that is shown or named.

`split_address` finds the host of an address, also if the password holds `/`, `#`, `?` or `@`. Of what follows the host,
only the parts of the path that cannot be credentials are shown: never a query, and nothing after a part that looks like
`user=..`, `password=..` or a token. `redacted` applies this to any text, for example a log record with a traceback, and
also removes the values that were passed to `remember`.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import ipaddress
import re
import threading
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

MASK = "***"

_START = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_NETWORK = "rtsps?|rtmps?|https?|mqtts?|srt|udp|tcp|wss?|ftps?"
_IN_TEXT = re.compile(
    rf"(?<![A-Za-z0-9+.-])(?:[A-Za-z][A-Za-z0-9+.-]+://|(?:{_NETWORK}):/|[A-Za-z][A-Za-z0-9+.-]+%3A%2F%2F)\S+",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"(['\"])([A-Za-z][A-Za-z0-9+.-]+://[^\n]*?)\1(?=[\s,;:.)\]}]|$)")  # it may hold spaces
_WITHOUT_SCHEME = re.compile(r"(?<![\w/@*])[^\s:/@'\"=\[\]*]+:(?!//)\S*@(?=[\w\[])")
_FORM = re.compile(  # in messages on how to write one
    r"(\[USER:PASSWORD@\]|USER:PASSWORD@)?HOST(\[:PORT\])?(/PATH|\[/(PREFIX|PATH)\]|\[/DB\[/STREAM\]\])?"
)
_PUNCTUATION = re.compile(r"[\])}>'\",;:.!?]*$")  # of the text around an address
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.~%-]+)?\]|\w[\w.-]*)(?::\d{0,5})?(?=[/?#;]|$)")
_DOMAIN = re.compile(r"(?:[\w-]+\.)+[A-Za-z]{2,}")

_HARMLESS = re.compile(r"[\w .~+,()!*'-]*")  # no = : ; & @ of a parameter
_CREDENTIAL = re.compile(r"passw|pwd|passphrase|token|secret|api_?key|credential", re.IGNORECASE)
_BEFORE_CREDENTIALS = ("admin", "root", "pass", "auth", "key")  # parts of a path that a password or a token may follow
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_LONG = 16  # letters and digits in one word that make it a token: names of streams are shorter
_CHANNEL = re.compile(
    r"(?<![A-Za-z])(channel|chn|ch|camera|cam|subtype|streamtype|stream|profile)(?:id|no)?=(\d{1,3})(?!\d)",
    re.IGNORECASE,
)

_REFERENCE = re.compile(r"\$\{\w+\}")  # of a secret that is still to be filled in, whose name is shown

_MOST = 2000  # remembered values, and spellings of addresses
_SHORTEST = 6  # characters of a value that is looked for in any text; shorter ones would hit ordinary words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """An address `SCHEME://[USER:PASSWORD@]HOST[:PORT]REST`.

    `host` includes the port. It is empty if it cannot be told from a part of the password. `misread` is whether other
    programs take another part for the host, because the password holds characters that must be written as %XX.
    """

    scheme: str
    userinfo: str = dataclasses.field(repr=False)
    host: str
    rest: str = dataclasses.field(repr=False)
    misread: bool = False

    @property
    def path(self) -> str:
        """The part of the path that is shown. What may hold credentials is replaced by `***`."""
        parts: list[str] = []
        before = ""
        path = re.split(r"[?#]", self.rest, maxsplit=1)[0]
        given = path.split("/")[1:]
        for number, part in enumerate(given):
            stream_key = self.scheme.startswith("rtmp") and 0 < number == len(given) - 1
            secret = _may_be_secret(part) or _known.has_path(given[number:])
            if stream_key or before in _BEFORE_CREDENTIALS or secret:
                parts.append(MASK)
                break
            parts.append(part)
            before = part.lower()
        return "".join(f"/{part}" for part in parts)

    @property
    def channels(self) -> str:
        """The numbers that tell the channels of one recorder apart, for example `channel-1-subtype-0`, else ""."""
        return "-".join(f"{name.lower()}-{int(number)}" for name, number in _CHANNEL.findall(self.rest))

    def __str__(self) -> str:
        if not self.host and not self.userinfo:
            return f"{self.scheme}://{self.path}"
        return f"{self.scheme}://{self.host or MASK}{self.path if self.host else ''}"


def split_address(address: str) -> Address | None:
    """Split an address. Returns None for a text without a scheme.

    An @ after the first `/`, `?` or `#` may stand in the path, or behind a password that was not encoded. The text that
    is an IP address, `localhost` or a domain is the host. If this does not tell, no host is returned.
    """
    start = _START.match(address)
    if start is None:
        return None
    scheme, text = start[1].lower(), address[start.end() :]
    end = min((text.find(mark) for mark in "/?#" if mark in text), default=len(text))
    at = text.rfind("@", 0, end)
    usual = _host(text, at + 1)
    reading = _Reading(scheme, text)
    if "@" not in text[end:]:
        return reading.at(at, usual) if usual or end == 0 else reading.unclear()
    if usual and (_is_certain(usual) or (_is_domain(usual) and ":" not in usual and usual == text[:end])):
        return reading.at(at, usual)
    places = [place for place in range(end, len(text)) if text[place] == "@"]
    for place in reversed(places):
        host = _host(text, place + 1)
        if host and (_is_certain(host) or ((_is_domain(host) or not usual) and "=" not in text[end:place])):
            return dataclasses.replace(reading.at(place, host), misread=True)
    return reading.unclear()


@dataclasses.dataclass(frozen=True)
class _Reading:
    scheme: str
    text: str

    def at(self, place: int, host: str) -> Address:
        rest = self.text[place + 1 + len(host) :]
        return Address(scheme=self.scheme, userinfo=self.text[: max(0, place)], host=host, rest=rest)

    def unclear(self) -> Address:
        return Address(scheme=self.scheme, userinfo=self.text, host="", rest="")


def shown(address: str) -> str:
    """Return an address without credentials: no user, no password, no query, `***` for what may be one in the path."""
    parts = split_address(address)
    return redacted(address) if parts is None else str(parts)


def redacted(text: str) -> str:
    """Return any text with its addresses as `shown` returns them, and without the values that were remembered."""
    text = _known.replace(text)
    if ":/" in text or "%3" in text:
        text = _QUOTED.sub(lambda found: f"{found[1]}{_shown_in_text(found[2])}{found[1]}", text)
        text = _IN_TEXT.sub(lambda found: _shown_in_text(found[0]), text)
    return _WITHOUT_SCHEME.sub(f"{MASK}@", text) if "@" in text else text


def remember(text: str) -> None:
    """Remember an address, so that `redacted` finds it and its credentials in any spelling. Other text is ignored."""
    start = _START.search(text)
    parts = split_address(text[start.start() :]) if start else None
    if start is None or parts is None or str(parts) == text:
        return
    address = text[start.start() :]
    spellings = {address, unquote(address)}
    for one in list(spellings):
        spellings |= {quote(one), quote(one, safe=""), repr(one)[1:-1], str(PurePosixPath(one))}
    for one in spellings:
        _known.add(one, str(parts))
    if parts.host and parts.userinfo:
        for one in {parts.userinfo, unquote(parts.userinfo)}:
            _known.add(base64.b64encode(one.encode("utf-8", "surrogateescape")).decode("ascii"), MASK)
            for value in (one, one.partition(":")[2] or one):
                if _is_distinctive(value) and value not in str(parts) and not _REFERENCE.fullmatch(value):
                    remember_value(value)


def remember_value(value: str) -> None:
    """Remember a secret, so that it is shown in no path of an address and, if it is long enough, in no text."""
    if value not in _known.values:
        _known.values.append(value)
    if len(value) >= _SHORTEST:
        for one in {value, quote(value, safe=""), quote(value), repr(value)[1:-1]}:
            _known.add(one, MASK)


class _Known:
    """Texts to replace, the last ones remembered. For any thread.

    Values and addresses are bounded apart, because an application may open new addresses for years.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._addresses: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._pattern: re.Pattern[str] | None = None
        self.values: collections.deque[str] = collections.deque(maxlen=_MOST)

    def add(self, text: str, replacement: str) -> None:
        texts = self._values if replacement == MASK else self._addresses
        with self._lock:
            texts[text] = replacement
            texts.move_to_end(text)
            while len(texts) > _MOST:
                texts.popitem(last=False)
            self._pattern = None

    def has_path(self, parts: Sequence[str]) -> bool:
        """Return whether the parts of a path begin with those of a value that has several."""
        several = (value.strip("/").split("/") for value in self.values.copy() if "/" in value)
        return any(list(map(unquote, parts[: len(value)])) == value for value in several)

    def replace(self, text: str) -> str:
        with self._lock:
            known = {**self._addresses, **self._values}
            if not known:
                return text
            if self._pattern is None:
                longest_first = sorted(known, key=len, reverse=True)
                words = (rf"(?<![A-Za-z0-9]){re.escape(one)}(?![A-Za-z0-9])" for one in longest_first)
                self._pattern = re.compile("|".join(words))
            pattern = self._pattern
        return pattern.sub(lambda found: known[found[0]], text)


_known = _Known()


def _shown_in_text(text: str) -> str:
    if re.match(r"[^:/]*%3a%2f%2f", text, re.IGNORECASE):
        text = unquote(text)
    end = _PUNCTUATION.search(text)
    address, tail = (text[: end.start()], text[end.start() :]) if end else (text, "")
    scheme, _, rest = address.partition(":")
    rest = rest.lstrip("/")
    if not rest or scheme.lower() == "file" or _FORM.fullmatch(rest) or _FORM.fullmatch(rest + tail):
        return text
    return shown(f"{scheme}://{rest}") + tail


def _host(text: str, start: int) -> str:
    found = _HOST.match(text, start)
    return found[0] if found else ""


def _name(host: str) -> str:
    return host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]


def _is_certain(host: str) -> bool:
    name = _name(host)
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return name.lower() == "localhost"
    return True


def _is_domain(host: str) -> bool:
    return _DOMAIN.fullmatch(_name(host)) is not None


def _may_be_secret(part: str) -> bool:
    spellings = {part}
    for _ in range(3):  # encoded more than once
        part = unquote(part)
        spellings.add(part)
    if not _HARMLESS.fullmatch(part) or _CREDENTIAL.search(part) or _UUID.search(part):
        return True
    if any(value == one or (len(value) > 2 and value in one) for value in _known.values.copy() for one in spellings):
        return True
    return any(len(word) >= _LONG and not word.isalpha() and not word.isdigit() for word in re.split(r"[\W_]+", part))


def _is_distinctive(value: str) -> bool:
    """Return whether a value occurs in no ordinary text: `admin` and `password` would."""
    return len(value) >= _SHORTEST and not value.isdigit() and (not value.isalpha() or len(value) > 12)
