"""Who may read the pages of the web server, and who may change something.

A server on this machine answers requests for its own names only, so that pages of other sites cannot read it (DNS
rebinding). Beyond this machine, its pages need the token. Every change needs the token, wherever the server listens,
and from a browser also the page's own origin.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from seqpar_deploy.bearer import check_bearer, read_bearer
from seqpar_deploy.errors import SinkError
from seqpar_deploy.redaction import redacted

TOKEN = "SEQPAR_VIDEO_TOKEN"
OPEN = ("/metrics", "/healthz")  # routes without a token: they show counts and no people
_SHORTEST = 16  # characters; at the server's rate of answers, a shorter random token could be found in time
_PATH = re.compile(r"(/[\w.~%-]+)*/?")
_GIVE = "open /?token=TOKEN in a browser once, or send the header Authorization: Bearer TOKEN"


def read_base_url(text: str) -> SplitResult:
    """Parse the public address of a server behind a proxy. Raises SinkError."""
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        valid = False
    if not valid or url.username is not None or url.query or url.fragment or not _PATH.fullmatch(url.path):
        raise SinkError(
            "the base URL must be http://HOST[:PORT][/PATH] or https://, without user and query, got "
            f"{redacted(text)}; correct it, for example https://example.com/cameras/"
        )
    return url


def read_token(path: Path) -> str:
    """Read the token of a server from a file, without the white space around it. Raises SinkError."""
    return _long_enough(read_bearer(path, SinkError), f"the token in {path}")


def check_token(token: str, name: str) -> str:
    """Return a token, and remember it as a secret. Raises SinkError, which does not quote it."""
    return _long_enough(check_bearer(token, name, SinkError), name)


def find_token(path: Path | None, environment: Mapping[str, str]) -> str | None:
    """Return the token of a file, else of the environment variable, else None. Raises SinkError."""
    if path is not None:
        return read_token(path)
    token = environment.get(TOKEN)
    return check_token(token, f"the token in {TOKEN}") if token else None


def _long_enough(token: str, name: str) -> str:
    if len(token) < _SHORTEST:
        raise SinkError(
            f"{name} must have {_SHORTEST} characters or more, got {len(token)}; make one, for example with "
            "openssl rand -hex 16"
        )
    return token


def is_local(address: str) -> bool:
    """Return whether an address, or the name in a request, is of this machine only."""
    if address.lower() == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


class Headers(Protocol):
    """The headers of a request, of any case."""

    def get(self, name: str, /) -> str | None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a request is refused: one line, and an HTTP status."""

    status: int
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Access:
    """The rules of one server.

    Args:
        local: Whether it listens on this machine only.
        port: Its port.
        token: The token, or None without one.
        base: Public address behind a proxy, or None.
    """

    local: bool
    port: int
    token: str | None = dataclasses.field(default=None, repr=False)
    base: SplitResult | None = None

    @property
    def cookie(self) -> str:
        """The name of the session's cookie. Browsers send the cookies of one port of a machine to all of its ports."""
        return f"seqpar-{self.port}"

    def host_refusal(self, given: str | None, *, needed: bool) -> Refusal | None:
        """Refuse a request for another host. Only pages of other sites and proxies send one."""
        if not self.local or (given is None and not needed):
            return None
        name = _hostname(given)
        if is_local(name) or (name and self.base is not None and name == (self.base.hostname or "").rstrip(".")):
            return None
        shown = name if re.fullmatch(r"[\w.:%-]{1,100}", name) else "HOST"
        return Refusal(
            status=403 if given else 400,
            text=f"the host must be localhost or an address of this machine, got {shown}; behind a proxy, start with "
            f"--base-url https://{shown}/; to admit other machines, start with --address 0.0.0.0",
        )

    def reader_refusal(self, route: str | None, headers: Headers) -> Refusal | None:
        """Refuse a request from another machine without the token, except for metrics and health."""
        if self.local or route in OPEN:
            return None
        if self.token is None:
            return Refusal(
                status=403,
                text="pages need a token if other machines are admitted, got a server without one; start it with "
                f"--serve-token FILE or {TOKEN}",
            )
        return None if self._has_token(headers) else self._unknown(headers)

    def writer_refusal(self, headers: Headers) -> Refusal | None:
        """Refuse a change without the token, or from a page of another origin."""
        if self.token is None:
            return Refusal(
                status=403,
                text=f"a change needs a token, got a server without one; start it with --serve-token FILE or {TOKEN}",
            )
        if not self._has_token(headers):
            return self._unknown(headers)
        origin = headers.get("Origin")
        if origin is None and self._has_bearer(headers):  # browsers always name the origin
            return None
        if origin is None or not self._is_own(origin, headers.get("Host")):
            return Refusal(
                status=403,
                text="a change must come from a page of this server, got another origin or none; behind a proxy, start "
                "with --base-url and its public address",
            )
        return None

    def session(self, query: str) -> tuple[str, str] | Refusal | None:
        """Return the cookie for `token=TOKEN` in a query, and the query without it. None if the query has no token."""
        if self.token is None or "token=" not in query:
            return None
        pairs = [pair.partition("=") for pair in query.split("&")]
        given = [unquote(value) for name, _, value in pairs if name == "token"]  # a + is a + of base64
        if not given:
            return None
        if not _same(given[-1], self.token):
            return Refusal(status=401, text=f"the token must be that of this server, got another one; {_GIVE}")
        # Without a path, the cookie is for the address that the browser sees, under any path of a proxy.
        secure = "; Secure" if self.base is not None and self.base.scheme == "https" else ""
        cookie = f"{self.cookie}={self._proof()}; HttpOnly; SameSite=Strict{secure}"
        return cookie, "&".join("".join(pair) for pair in pairs if pair[0] != "token")

    def _proof(self) -> str:
        """The value of the cookie. It is not the token, but holds as long: a restart ends no session."""
        assert self.token is not None
        return hmac.new(self.token.encode("utf-8", "replace"), b"seqpar session", hashlib.sha256).hexdigest()

    def _has_token(self, headers: Headers) -> bool:
        return self._has_bearer(headers) or self._has_cookie(headers)

    def _has_bearer(self, headers: Headers) -> bool:
        kind, _, given = (headers.get("Authorization") or "").partition(" ")
        return kind.lower() == "bearer" and self.token is not None and _same(given.strip(), self.token)

    def _has_cookie(self, headers: Headers) -> bool:
        pairs = (pair.strip().partition("=") for pair in (headers.get("Cookie") or "").split(";"))
        return any(name == self.cookie and _same(value, self._proof()) for name, _, value in pairs)

    def _unknown(self, headers: Headers) -> Refusal:
        given = (
            "another one" if headers.get("Authorization") or self.cookie in (headers.get("Cookie") or "") else "none"
        )
        return Refusal(status=401, text=f"the token must be that of this server, got {given}; {_GIVE}")

    def _is_own(self, origin: str, host: str | None) -> bool:
        """Return whether an origin is that of the server: the host that was asked, or the public address."""
        if self.base is not None and _place(origin) == _place(self.base.geturl()):
            return True
        scheme, _, place = origin.lower().partition("://")
        return scheme in ("http", "https") and host is not None and place == host.lower()


def _place(url: str) -> tuple[str, str, int | None] | None:
    """Return the scheme, host and port of a URL, None for one that has no host."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def _hostname(host: str | None) -> str:
    try:
        return (urlsplit(f"//{host or ''}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _same(given: str, expected: str) -> bool:
    """Compare in a time that does not depend on the first difference."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))
