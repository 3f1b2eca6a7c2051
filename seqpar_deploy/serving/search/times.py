"""Times of a search: `7d` before now, a date, or a date and time."""

from __future__ import annotations

import datetime
import re

from seqpar_deploy.errors import SearchError

_AGO = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def parse_since(text: str, now: datetime.datetime) -> datetime.datetime:
    """Return the first moment of a time: `7d` is that long before `now`, and a date begins at midnight UTC.

    Args:
        text: A number with m, h, d or w for minutes, hours, days or weeks, a date (2026-11-01), or a date and time
            (2026-11-01T18:30, UTC unless it has a time zone).
        now: The current time, with a time zone.

    Returns:
        The moment in UTC.

    Raises:
        SearchError: The text is none of these.
    """
    return _parse(text, now, "--since")


def parse_until(text: str, now: datetime.datetime) -> datetime.datetime:
    """Return the first moment after a time. A date includes its day. See `parse_since`."""
    found = _parse(text, now, "--until")
    return found + datetime.timedelta(days=1) if _DATE.fullmatch(text) else found


def _parse(text: str, now: datetime.datetime, option: str) -> datetime.datetime:
    try:
        if ago := _AGO.fullmatch(text):
            return now - datetime.timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        # Python 3.10 does not read the Z of UTC.
        found = datetime.datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text))
        return found.astimezone(datetime.timezone.utc) if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)
    except (ValueError, OverflowError):
        raise SearchError(
            f"{option} must be a time, got {text!r}; for example 12h, 7d, 2026-11-01 or 2026-11-01T18:30"
        ) from None
