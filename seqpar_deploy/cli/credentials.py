"""Fill `${NAME}` in addresses from a file or the environment, so that `ps` shows no password."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from seqpar_deploy.errors import SeqparError
from seqpar_deploy.redaction import remember, remember_value

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{({_NAME})\}}|\$\{{[^}}]*\}}?")
_LINE = re.compile(rf"(?:export\s+)?({_NAME})\s*=\s*(.*)")
_QUOTED = re.compile(r"""'([^']*)'\s*(?:#.*)?|"((?:[^"\\]|\\.)*)"\s*(?:#.*)?""")
_MOST = 1 << 20  # bytes of a file

_log = logging.getLogger(__name__)


def read_secrets(path: Path | None) -> dict[str, str]:
    """Return the values by name: those of the environment, overridden by the NAME=VALUE lines of a file.

    Blank lines and lines that begin with # are ignored. A value may be quoted, with a backslash before " and \\ in
    double quotes. Raises SeqparError for another line, without a quotation of it.
    """
    values = dict(os.environ)
    if path is None:
        return values
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o007:
                _log.warning("the secrets in %s can be read by every user of this machine; chmod 600 %s", path, path)
            lines = file.read(_MOST + 1).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise SeqparError(f"--secrets {path} cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise SeqparError(
            f"--secrets {path} must be a text file in UTF-8, got another encoding; save it again"
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, value = _parsed(line.strip(), f"line {number} of --secrets {path}")
        if name in found:
            raise SeqparError(
                f"--secrets {path} must have each name once, got {name} again in line {number}; remove one"
            )
        found[name] = value
    return values | found


def filled(text: str, values: Mapping[str, str]) -> str:
    """Replace each `${NAME}` in an address, and remember the value as a secret. `$${` stands for `${`.

    A value that lands in the user, password, path or query is percent-encoded as its place needs. One that is a whole
    address is inserted as it is. Raises SeqparError for a name without a value.
    """
    if "${" not in text or os.path.exists(text):
        return text
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text)
    begin = scheme.end() if scheme else len(text)

    def fill(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        if found[1] is None:
            raise SeqparError(f"a reference must be ${{NAME}} of letters, digits and _, got {found[0]}; correct it")
        value = values.get(found[1], "")
        if not value:
            state = "an empty value" if found[1] in values else "none"
            raise SeqparError(
                f"${{{found[1]}}} must have a value, got {state}; set it in the environment or in the file of --secrets"
            )
        if scheme is None:  # a whole address, or a path
            inner = value if "${" not in value or "://" not in value else filled(value, {**values, found[1]: ""})
            remember(inner)
            return inner
        before, after = _blank(text[begin : found.start()]), _blank(text[found.end() :])
        return _encoded(value, before, after)

    return _REFERENCE.sub(fill, text)


def _encoded(value: str, before: str, after: str) -> str:
    """Return the value for its place: `before` and `after` are the rest of the address, without other values."""
    if not re.search(r"[/?#]", before):
        if "@" not in re.split(r"[/?#]", after)[0]:
            return value  # a host or a port
        remember_value(value)
        user, colon, password = value.partition(":")
        if colon and not before and after.startswith("@"):  # USER:PASSWORD in one value
            remember_value(password)
            return f"{quote(user, safe='')}:{quote(password, safe='')}"
        return quote(value, safe="")
    remember_value(value)
    return quote(value, safe="" if re.search(r"[?#]", before) else "/:@=&;+,!*'()~")


def _blank(text: str) -> str:
    return _REFERENCE.sub("x", text)


def _parsed(line: str, place: str) -> tuple[str, str]:
    found = _LINE.fullmatch(line)
    if found is None:
        raise SeqparError(f"{place} must be NAME=VALUE, got another form; correct it, or begin it with # to ignore it")
    name, value = found[1], found[2]
    if value[:1] in ("'", '"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise SeqparError(f"{place} must end with the quote that its value begins with; add it, or omit both")
        value = quoted[1] if quoted[1] is not None else re.sub(r"\\(.)", r"\1", quoted[2])
    return name, value
