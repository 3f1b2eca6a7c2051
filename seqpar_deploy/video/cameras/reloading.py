"""Applies a config file to the cameras of a run whenever the file changes, and changes it on request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

from seqpar_deploy.errors import SeqparError, VideoError
from seqpar_deploy.files import write_whole
from seqpar_deploy.video.cameras.editing import change_of
from seqpar_deploy.video.cameras.manager import Cameras
from seqpar_deploy.video.cameras.settings import CameraSettings
from seqpar_deploy.video.sinks.fan_out import one_line
from seqpar_deploy.video.sinks.metrics import Health
from seqpar_deploy.video.sinks.server import Answer, Post

_RELOAD, _CAMERAS = POSTS = ("/config/reload", "/config/cameras/")
_EVERY = 1.0  # seconds between two looks at the file

FileState = tuple[int, int, int]

_log = logging.getLogger(__name__)


class Reloader:
    """Looks at a config file every second in a thread, and applies its cameras when it has changed.

    A file that is not valid or has no camera changes nothing. It is logged, and a health check reports it until the
    file is valid again. A file counts as changed once it stays the same from one look to the next, because its writer
    may not have finished.

    Args:
        path: The file.
        parse: Returns the cameras of a file's content. Raises SeqparError.
        cameras: The cameras to change.
        seen: `state_of` the file whose cameras there are. Default: as it is now.
        health: Health checks that report a file that is not valid. Default: not reported.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], Mapping[str, CameraSettings]],
        cameras: Cameras,
        *,
        seen: FileState | None = None,
        health: Health | None = None,
    ) -> None:
        self._path, self._parse, self._cameras = path, parse, cameras
        self._problem: str | None = None
        self._seen = seen or state_of(path)
        self._lock = threading.Lock()  # one reload at a time
        self._closing = threading.Event()
        self._health = health or Health()
        self._health.watch(f"config {path.name}", lambda: self._problem)
        self._thread = threading.Thread(target=self._watch, name="config", daemon=True)
        self._thread.start()

    def reload(self) -> str:
        """Apply the file as it is now, and return which cameras changed. Safe in any thread. Raises SeqparError."""
        with self._lock:
            self._seen = state_of(self._path)
            try:
                wanted = self._parse(self._read())
                if not wanted:  # rather a file that was cut short than a wish; a request may remove the last one
                    raise VideoError(f"{self._path} must have a camera, got none; add one, or end the run")
                changes = self._cameras.apply(wanted)
            except Exception as error:
                self._problem = one_line(error)
                raise
            if self._problem is not None:
                _log.info("%s: valid again", self._path)
            self._problem = None
            _log.info("%s: %s", self._path, changes)
            return str(changes)

    def edit(self, change: Callable[[str], str]) -> str:
        """Change the file and apply it, and return which cameras changed. Safe in any thread.

        Args:
            change: Returns the new content for the present one. Raises SeqparError.

        Raises:
            SeqparError: The file or the new content is not valid, or cannot be written. Then nothing has changed.
        """
        with self._lock:
            before = self._read()
            after = change(_text(before)).encode("utf-8")
            wanted = self._parse(after)
            changes = self._cameras.apply(wanted)
            try:
                path = self._path.resolve()  # of a link, the file that it names
                write_whole(path, after, mode=path.stat().st_mode & 0o777)  # it may hold passwords
            except (OSError, SeqparError):
                self._cameras.apply(self._parse(before))
                raise VideoError(f"{self._path} cannot be written; check the permissions of its folder") from None
            self._seen, self._problem = state_of(self._path), None
            _log.info("%s: %s, by request", self._path, changes)
            return str(changes)

    def posts(self) -> dict[str, Post]:
        """Return the requests that a `WebServer` answers, by path. A request that is refused changes nothing.

        `/config/reload` applies the file. `/config/cameras/NAME` adds or changes a camera, whose settings are the body
        (TOML). `/config/cameras/NAME/remove` removes one.
        """
        return {
            _RELOAD: lambda _rest, _body: self._answer(self.reload),
            _CAMERAS: lambda rest, body: self._answer(lambda: self.edit(change_of(unquote(rest), body))),
        }

    def _answer(self, work: Callable[[], str]) -> Answer:
        try:
            return Answer(body=f"{work()}\n".encode("utf-8", "replace"))
        except Exception as error:  # as of `_watch`
            return Answer(body=f"{one_line(error)}\n".encode("utf-8", "replace"), status=409)

    def close(self) -> None:
        """Stop looking at the file. Safe to call twice."""
        self._closing.set()
        self._thread.join()
        self._health.forget(f"config {self._path.name}")

    def _watch(self) -> None:
        before = self._seen
        while not self._closing.wait(_EVERY):
            now = state_of(self._path)
            finished, before = now == before, now
            if not finished or now in (None, self._seen):  # an editor may replace the file in two steps
                continue
            try:
                self.reload()
            except Exception as error:  # also of a runtime that opens a detector: the thread must not end
                _log.warning("%s; the cameras go on as they were", one_line(error))

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise VideoError(f"{self._path} cannot be read: {error.strerror}; restore it") from None


def state_of(path: Path) -> FileState | None:
    """Return what changes when a file does, or None while it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise VideoError("the config file must be UTF-8, got another encoding; save it again") from None
