"""Serves the page that draws zones, lines and masks on a frame, and saves what was drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from seqpar_deploy.config import parse_json, typed
from seqpar_deploy.errors import SeqparError, VideoError
from seqpar_deploy.files import why_not_written, write_whole
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.page import facts, page, policy
from seqpar_deploy.video.cameras.tables import load_tomlkit
from seqpar_deploy.video.sinks.server import Answer, Post, Route
from seqpar_deploy.video.zone_page.editing import KINDS, Drawn, with_scene
from seqpar_deploy.video.zones.geometry import Point, in_pixels
from seqpar_deploy.video.zones.settings import SceneSettings

_SOURCES = "img-src 'self'; connect-src 'self'"
_DIGITS = 4  # of shares: a tenth of a pixel in a frame of 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Save:
    """The body of a request to save. `version` is that of the file on which the drawing is based."""

    version: str
    shapes: tuple[Drawn, ...]


class ZonePage:
    """The routes of the page, for a `WebServer`.

    Args:
        path: The config file.
        camera: Name of the camera.
        read: Returns the scene of the camera in the content of a config file. Raises SeqparError.
        picture: A frame of the camera, uint8 RGB (h, w, 3).
        on_saved: Called after each save. Default: nothing.

    Raises:
        SeqparError: The file cannot be read or is not valid, or tomlkit is not installed.
    """

    def __init__(
        self,
        path: Path,
        camera: str,
        read: Callable[[bytes], SceneSettings],
        picture: RgbImage,
        *,
        on_saved: Callable[[], object] = lambda: None,
    ) -> None:
        self._path, self._camera, self._read, self._on_saved = path, camera, read, on_saved
        self._height, self._width = picture.shape[:2]
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=88)
        self._picture = buffer.getvalue()
        self._saving = threading.Lock()
        load_tomlkit()
        self._state(self._content())

    def routes(self) -> dict[str, Route]:
        """Return the routes of the page, by path."""
        return {
            "/": self._page,
            "/picture.jpg": lambda _rest: Answer(body=self._picture, type="image/jpeg"),
            "/scene.json": lambda _rest: _json(self._state(self._content())),
            "/favicon.ico": lambda _rest: Answer(body=b"", type="image/x-icon"),
        }

    def posts(self) -> dict[str, Post]:
        """Return what changes the file, by path."""
        return {"/save": self._save}

    def _page(self, _rest: str) -> Answer:
        script = _file("zones.js")
        title = f"Zones of {self._camera}"
        document = page(title, _body(self._camera), style=_file("zones.css"), script=script, sources=_SOURCES)
        return Answer(
            body=document.encode("utf-8"),
            type="text/html; charset=utf-8",
            policy=policy(script=script, sources=_SOURCES),
        )

    def _save(self, _rest: str, body: bytes) -> Answer:
        values = parse_json(body, source="the drawing", error=VideoError)
        save = typed(values, _Save, source="the drawing", error=VideoError)
        with self._saving:
            content = self._content()
            if save.version != _version(content):
                text = f"{self._path.name} has changed meanwhile; reload the page, and draw again\n"
                return Answer(body=text.encode("utf-8"), status=409)
            new = with_scene(content.decode("utf-8-sig"), self._camera, save.shapes).encode("utf-8")
            self._read(new)
            if new != content:
                self._write(new)
                self._on_saved()
            return _json(self._state(new))

    def _content(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise VideoError(f"{self._path} cannot be read: {error.strerror}; name another with --config") from None

    def _write(self, content: bytes) -> None:
        """Replace the file, or the one that a link leads to, and keep its permissions: it may hold passwords."""
        path = self._path.resolve()
        try:
            write_whole(path, content, mode=path.stat().st_mode & 0o777)
        except OSError as error:
            why = why_not_written(error, path) or error.strerror
            raise SeqparError(f"{self._path} cannot be written: {why}") from None

    def _state(self, content: bytes) -> dict[str, Any]:
        """Return what the page shows."""
        scene = self._read(content)
        return {
            "camera": self._camera,
            "version": _version(content),
            "size": [self._width, self._height],
            "shapes": [
                {"kind": kind, "name": name, "points": self._shares(shape.points)}
                for kind in KINDS
                for name, shape in getattr(scene, kind).items()
            ],
        }

    def _shares(self, points: tuple[Point, ...]) -> list[list[float]]:
        placed = in_pixels(points, self._width, self._height)
        return [[round(x / self._width, _DIGITS), round(y / self._height, _DIGITS)] for x, y in placed]


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(values: object) -> Answer:
    return Answer(body=json.dumps(values).encode("ascii"), type="application/json")


def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _button(text: str, identity: str) -> Html:
    return tag("button", text, type="button", id=identity)


def _body(camera: str) -> Html:
    return join(
        tag("h1", f"Zones of {camera}"),
        tag(
            "p",
            "Add a shape and drag its points, or move them with the arrow keys. A click on a small point adds one, "
            "Delete removes one. People are where their feet are, at the middle of the lower edge of their box.",
            class_="note",
        ),
        tag("p", *(_button(f"Add a {kind.removesuffix('s')}", f"add-{kind}") for kind in KINDS), id="adds"),
        tag(
            "div",
            tag("img", id="picture", src="picture.jpg", alt=f"A frame of {camera}"),
            Html('<svg id="drawing" role="group" aria-label="Zones, lines and masks"></svg>'),
            id="stage",
        ),
        tag(
            "div",
            _button("Save", "save"),
            _button("Undo", "undo"),
            tag("span", id="state", role="status"),
            id="bar",
        ),
        tag("ul", id="shapes", aria_label="Zones, lines and masks"),
        facts(
            (
                ("zone", "People enter it and leave it, and their dwell time is measured."),
                ("line", "People cross it. The arrow points to the side that is in."),
                ("mask", "Whoever stands in it is ignored, for example on a screen."),
            )
        ),
        tag("noscript", tag("p", "This page needs JavaScript.")),
    )
