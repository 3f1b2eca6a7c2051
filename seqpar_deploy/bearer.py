"""Bearer tokens: one word that is read from a file or the environment, and remembered as a secret."""

from __future__ import annotations

import re
from pathlib import Path

from seqpar_deploy.errors import SeqparError
from seqpar_deploy.redaction import remember_value

_LONGEST = 1 << 16  # bytes
_TOKEN = re.compile(r"[\x21-\x7e]+")  # no space or control character, which would end the header


def read_bearer(path: Path, error: type[SeqparError]) -> str:
    """Read a token from a file, without the white space around it. Raises `error`."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except OSError as cause:
        raise error(f"the token file {path} cannot be read: {cause.strerror}; check the path") from None
    return check_bearer(content.decode("latin-1").strip(), f"the token in {path}", error)


def check_bearer(token: str, name: str, error: type[SeqparError]) -> str:
    """Return a token, and remember it as a secret. Raises `error`, which does not quote it."""
    if not _TOKEN.fullmatch(token) or len(token) > _LONGEST:
        raise error(f"{name} must be one word of visible ASCII characters, got another text; check it")
    remember_value(token)
    return token
