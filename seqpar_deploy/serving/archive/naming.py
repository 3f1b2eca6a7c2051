"""Camera and time of a picture from its name, as cameras and recorders name their files."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import re
import zoneinfo

from seqpar_deploy.errors import ArchiveError

_DIGITS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "y": 2, "j": 3, "s": 10}
_PARTS = {**{name: rf"\d{{{digits}}}" for name, digits in _DIGITS.items()}, "f": r"\d{1,6}"}
_PARTS |= {"z": r"(?:Z|[+-]\d{2}:?\d{2})", "b": "[A-Za-z]{3}", "%": "%"}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_MICROSECOND = datetime.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
    """How names of files tell camera and time. The last match in the path and the entry counts.

    Attributes:
        camera: Name of the camera of all pictures, or a regular expression whose group finds it in the path, for
            example `cam-(\\d+)`. Default: unknown.
        captured_at: The time in a name, in the directives of strftime, for example `%Y%m%d-%H%M%S`. `%s` is seconds
            since 1970. Default: unknown.
        time_zone: Time zone of times without an offset, for example `Europe/Berlin`. Default: `UTC`.

    Raises:
        ArchiveError: A value is not of this form.
    """

    camera: str | None = None
    captured_at: str | None = None
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        if not self.time_zone or self._zone is None:
            raise ArchiveError(
                f"time zone must be a name such as Europe/Berlin, got {self.time_zone!r}; check it, or install tzdata"
            )
        if self.captured_at is not None:
            directives = set(re.findall("%(.)", self.captured_at))
            if unknown := sorted(directives - set(_PARTS)):
                known = " ".join(f"%{name}" for name in _PARTS)
                raise ArchiveError(f"--captured-at must have directives of {known}, got %{unknown[0]}; replace it")
            has_day = "j" in directives or ("d" in directives and bool({"m", "b"} & directives))
            if "s" not in directives and not (has_day and {"Y", "y"} & directives):
                raise ArchiveError(f"--captured-at must have a date, got {self.captured_at!r}; for example %Y-%m-%d")
        if self.camera is not None and "(" in self.camera and self._camera_pattern is None:
            raise ArchiveError(
                f"--camera must be a name, or a regular expression with one group, got {self.camera!r}; for example "
                r"cam-(\d+)"
            )

    def camera_of(self, name: str) -> str | None:
        """Return the camera of a file, or None if its name has none."""
        if self.camera is None or "(" not in self.camera:
            return self.camera
        assert self._camera_pattern is not None  # checked above
        found = [match[1] for match in self._camera_pattern.finditer(name) if match[1]]
        return found[-1] if found else None

    def captured_at_of(self, name: str) -> int | None:
        """Return the time of a file in microseconds since 1970 (UTC), or None if its name has none."""
        if self._time_pattern is None or self.captured_at is None:
            return None
        for text in reversed([match[0] for match in self._time_pattern.finditer(name)]):
            try:
                if "%s" in self.captured_at:
                    return int(re.findall(r"\d{10}", text)[0]) * 1_000_000
                return self.microseconds(datetime.datetime.strptime(text, self.captured_at))
            except (ValueError, OverflowError):  # digits that are no date
                continue
        return None

    def microseconds(self, time: datetime.datetime) -> int:
        """Return a time in microseconds since 1970 (UTC). Without an offset it is of `time_zone`."""
        return ((time if time.tzinfo else time.replace(tzinfo=self._zone)) - _EPOCH) // _MICROSECOND

    def from_text(self, text: str) -> int | None:
        """Return the time of an ISO 8601 text, as `captured_at_of`, or None without text. Raises ValueError."""
        if not text.strip():
            return None
        return self.microseconds(datetime.datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text.strip())))

    @functools.cached_property
    def _zone(self) -> zoneinfo.ZoneInfo | None:
        try:
            return zoneinfo.ZoneInfo(self.time_zone)
        except (ValueError, zoneinfo.ZoneInfoNotFoundError, OSError):
            return None

    @functools.cached_property
    def _camera_pattern(self) -> re.Pattern[str] | None:
        try:
            pattern = re.compile(self.camera or "")
        except re.error:
            return None
        return pattern if pattern.groups == 1 else None

    @functools.cached_property
    def _time_pattern(self) -> re.Pattern[str] | None:
        if self.captured_at is None:
            return None
        parts = re.split("(%.)", self.captured_at)
        text = "".join(_PARTS[part[1]] if place % 2 else re.escape(part) for place, part in enumerate(parts))
        return re.compile(rf"(?<!\d){text}(?!\d)")
