"""Host and port of the address of a network output."""

from __future__ import annotations

import re
from collections.abc import Mapping

from seqpar_deploy.redaction import Address


def host_and_port(parts: Address | None, ports: Mapping[str, int]) -> tuple[str, int]:
    """Return the host and the port of an address. `ports` has the default port of each scheme.

    Raises:
        ValueError: The address has another scheme, no host, or no valid port.
    """
    if parts is None or parts.scheme not in ports or not parts.host:
        raise ValueError
    host, _, port = parts.host.rpartition(":") if re.search(r":\d*$", parts.host) else (parts.host, "", "")
    host = host.strip("[]")
    host.encode("idna")  # UnicodeError, which would end the thread that connects, is a ValueError
    number = int(port or ports[parts.scheme])
    if not 0 < number < 65536:
        raise ValueError
    return host, number


def bracketed(host: str) -> str:
    """Return a host as it stands in an address: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
