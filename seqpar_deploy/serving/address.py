"""The address of a recognition server, and the credentials that are sent to it."""

from __future__ import annotations

import base64
import dataclasses
import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from seqpar_deploy.bearer import check_bearer, read_bearer
from seqpar_deploy.errors import ServerError
from seqpar_deploy.redaction import remember, split_address

_PORTS = {"http": 8000, "grpc": 8001, "https": 443, "grpcs": 443}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerAddress:
    """Hold an address. `shown` has no credentials. `path` is empty, or begins with / and does not end with it."""

    protocol: Literal["http", "grpc"]
    secure: bool
    host: str
    port: int
    path: str
    shown: str
    authorization: str | None = dataclasses.field(repr=False)  # of the user and password in the address


def read_address(url: str) -> ServerAddress:
    """Parse `http://HOST[:PORT][/PATH]`, or with https, grpc or grpcs. Raises ServerError."""
    remember(url)
    parts = split_address(url)
    if parts is None or parts.scheme not in _PORTS or not parts.host or parts.misread:
        scheme = f"the scheme {parts.scheme}" if parts and parts.scheme not in _PORTS else "another form"
        raise ServerError(
            "the server's address must be http://[USER:PASSWORD@]HOST[:PORT][/PATH], or with https, grpc or grpcs, "
            f"got {scheme}; write for example http://localhost:8000, and special characters of a password as %XX"
        )
    host, _, port = parts.host.rpartition(":") if re.search(r":\d*$", parts.host) else (parts.host, "", "")
    number = int(port) if port else _PORTS[parts.scheme]
    if not 0 < number < 1 << 16:
        raise ServerError(f"the server's port must be 1 to 65535, got {number}; check {parts}")
    if re.search(r"[?#]", parts.rest):
        raise ServerError(f"the server's address must have no query, got one in {parts}; pass a token as an option")
    path = parts.rest.rstrip("/")
    grpc = parts.scheme.startswith("grpc")
    if grpc and path:
        raise ServerError(f"the address of a gRPC server must have no path, got one in {parts}; omit it")
    user = unquote(parts.userinfo)
    basic = base64.b64encode(user.encode()).decode() if user else None
    return ServerAddress(
        protocol="grpc" if grpc else "http",
        secure=parts.scheme.endswith("s"),
        host=host.strip("[]"),
        port=number,
        path=path,
        shown=str(parts).rstrip("/"),
        authorization=basic and f"Basic {basic}",
    )


def read_token(path: Path) -> str:
    """Read a bearer token from a file, without the white space around it. Raises ServerError."""
    return read_bearer(path, ServerError)


def check_token(token: str, name: str) -> str:
    """Return a bearer token, and remember it as a secret. Raises ServerError, which does not quote it."""
    return check_bearer(token, name, ServerError)
