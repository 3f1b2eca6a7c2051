"""The HTML of the people report: one card per person, and a script that filters, sorts and plays videos."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from seqpar_deploy.calibration.drift import DriftReport
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import counted, percent
from seqpar_deploy.reports.page import page
from seqpar_deploy.video.sinks.drift_section import DRIFT_STYLE, drift_section
from seqpar_deploy.video.sinks.zones_section import ZONES_STYLE
from seqpar_deploy.video.types import Attribute, Person

_CROP, _SCENE = (180, 300), (640, 640)  # largest width and height in pixels; a scene is 340 wide on a phone
_CROP_BYTES = 12_000  # at most; sharp crops from high-resolution cameras need more at full quality
_SCENE_BYTES = 60_000
_MOST_UNKNOWN = 6  # attributes to list on a card
_STATES = {"yes": "y", "no": "n", "unknown": "u"}
_CARDS = Html("<!-- cards -->")  # their place in the page; no text can be equal to it, as texts are escaped
# Videos lie beside the report, on a disk or on the server it is read from.
_SOURCES = "img-src data:; media-src 'self' file:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """The scene of a stream: its size in pixels, and a thumbnail as CSS."""

    number: int
    width: int
    height: int
    style: str

    @classmethod
    def of(cls, image: RgbImage, *, number: int) -> Scene:
        """From a frame, uint8 RGB (h, w, 3)."""
        height, width = image.shape[:2]
        data = _jpeg(image, _SCENE, quality=70, most_bytes=_SCENE_BYTES)
        style = f".scene-{number} {{ background-image: url({data}); aspect-ratio: {width} / {height}; }}\n"
        return cls(number=number, width=width, height=height, style=style)


def people_page(
    shown: int,
    attributes: Sequence[str],
    scenes: Sequence[Scene],
    *,
    streams: int,
    seen: int,
    drift: DriftReport | None = None,
    zones: Html | None = None,
) -> tuple[str, str]:
    """Return the document before and after its cards, which may be many megabytes.

    `attributes` by number, as in the cards; of `seen` people `shown` have a card."""
    heading = f"{counted(seen, 'person', 'people')} in {counted(streams, 'stream')}"
    body = join(
        tag("p", "People report", class_="kind"),
        tag("h1", heading if seen else "No people detected yet"),
        tag("p", f"Only the {shown:,} most recent people are shown.", class_="note") if shown < seen else None,
        drift_section(drift) if drift else None,
        zones,
        _controls(attributes) if shown else None,
        tag("p", id="found", class_="found", role="status"),
        tag("div", _CARDS, id="people"),
        tag(
            "p",
            "No people match these filters. ",
            tag("button", "Clear", type="button", id="again"),
            id="nobody",
            hidden="",
        ),
        _player(),
    )
    style = (
        _read("report.css")
        + DRIFT_STYLE * bool(drift)
        + ZONES_STYLE * bool(zones)
        + "".join(scene.style for scene in scenes)
    )
    document = page("People report", body, style=style, script=_read("report.js"), sources=_SOURCES)
    before, _, after = document.partition(_CARDS)
    return before, after


def _controls(attributes: Sequence[str]) -> Html:
    chips = (
        tag("button", tag("span", name, class_="name"), type="button", class_="filter", data_attribute=number)
        for number, name in enumerate(attributes)
    )
    orders = (("first", "first seen"), ("last", "last seen"), ("sure", "most certain"), ("unsure", "least certain"))
    options = (tag("option", words, value=value) for value, words in orders)
    hint = "Click an attribute to filter by it: yes, then no, then unknown, then any. People must match all filters."
    return tag(
        "form",
        tag(
            "div",
            tag("label", "Search ", tag("input", type="search", id="search", placeholder="stream, #track, attribute")),
            tag("label", "Sort by ", tag("select", *options, id="sort")),
            tag("button", "Clear", type="reset"),
            class_="line",
        ),
        tag(
            "details",
            tag("summary", "Attributes", id="set"),
            tag("p", hint, class_="note"),
            *chips,
            open="",
            id="filters",
        ),
        id="controls",
    )


def _player() -> Html:
    return tag(
        "dialog",
        tag("div", tag("strong", id="what"), tag("button", "Close", type="button", id="close"), class_="line"),
        tag("video", controls="", playsinline="", muted="", id="video"),
        tag("p", id="trouble", class_="note", role="alert"),
        id="player",
    )


def card(person: Person, numbers: Mapping[str, int], scene: Scene | None, video: str | None) -> Html:
    """Return a person's card. `numbers` of the attributes; `video` is the address of the stream's video, if any."""
    items = person.attributes.items()
    states = " ".join(f"{numbers[name]}{_STATES[one.state]}{round(100 * one.probability)}" for name, one in items)
    yes = [_chip(name, one) for name, one in items if one.state == "yes"]
    title = tag("h3", f"#{person.track_id} ", tag("span", person.stream, class_="stream"))
    when = f"{clock(person.first.timestamp)} \N{EN DASH} {clock(person.last.timestamp)}"
    crops = f"from {counted(person.crops, 'crop')}"
    words = tag(
        "div",
        title,
        tag("p", when, tag("span", f", {crops}", class_="faint"), class_="when"),
        tag("p", *yes, None if yes else "no attributes", class_="yes"),
        _others(person),
        class_="words",
    )
    picture = tag("div", _picture(person), _jump(person, video), class_="side")
    return tag(
        "article",
        picture,
        words,
        _map(person, scene) if scene else None,
        class_="person",
        data_states=states,
        data_first=round(person.first.timestamp, 2),
        data_last=round(person.last.timestamp, 2),
    )


def clock(timestamp: float) -> str:
    """`1:02:03.4`, `2:03.4`"""
    tenths = round(10 * max(0.0, timestamp))
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def _chip(name: str, one: Attribute) -> Html:
    return tag("span", name, " ", tag("small", percent(one.probability)), class_="chip")


def _others(person: Person) -> Html:
    """List unknown attributes, and in a closed list those the person does not have, the most likely first.

    More than a few unknown attributes are in a closed list as well, to keep cards small."""
    unknown = [name for name, one in person.attributes.items() if one.state == "unknown"]
    no = sorted(((one.probability, name) for name, one in person.attributes.items() if one.state == "no"), reverse=True)
    names = ", ".join(f"{name} {percent(probability)}" for probability, name in no)
    return join(
        _unknown(unknown) if unknown else None,
        tag("details", tag("summary", f"no: {counted(len(no), 'attribute')}"), tag("p", names), class_="faint")
        if no
        else None,
    )


def _unknown(names: Sequence[str]) -> Html:
    if len(names) <= _MOST_UNKNOWN:
        return tag("p", "unknown: ", ", ".join(names), class_="faint")
    return tag(
        "details",
        tag("summary", f"unknown: {counted(len(names), 'attribute')}"),
        tag("p", ", ".join(names)),
        class_="faint",
    )


def _jump(person: Person, video: str | None) -> Html | None:
    if video is None:
        return None
    at = f"{max(0.0, person.best.timestamp):.2f}"
    label = f"\N{BLACK RIGHT-POINTING TRIANGLE} {clock(person.best.timestamp)}"
    title = f"#{person.track_id} in {person.stream} at {clock(person.best.timestamp)}"
    return tag("a", label, href=f"{video}#t={at}", class_="jump", title=title, data_at=at)


def _picture(person: Person) -> Html:
    if person.best_crop.size == 0:
        return tag("div", class_="crop")
    alt = f"#{person.track_id} at {clock(person.best.timestamp)}"
    return tag(
        "img",
        src=_jpeg(person.best_crop, _CROP, quality=80, most_bytes=_CROP_BYTES),
        alt=alt,
        loading="lazy",
        class_="crop",
    )


def _map(person: Person, scene: Scene) -> Html:
    """The scene with the box of the best crop; the rest of it is darkened."""
    box = person.best.box
    left, top = round(box.left), round(box.top)
    width, height = max(1, round(box.right) - left), max(1, round(box.bottom) - top)
    around = f"M0 0H{scene.width}V{scene.height}H0ZM{left} {top}v{height}h{width}v{-height}Z"
    drawn = (
        tag("path", d=around),
        tag("rect", x=left, y=top, width=width, height=height, vector_effect="non-scaling-stroke"),
    )
    label = f"box at {left}, {top} in a frame of {scene.width} x {scene.height} pixels"
    return tag(
        "div",
        tag("svg", *drawn, viewBox=f"0 0 {scene.width} {scene.height}", role="img", aria_label=label),
        class_=f"scene scene-{scene.number}",
    )


def _jpeg(image: RgbImage, most: tuple[int, int], *, quality: int, most_bytes: int) -> str:
    """As a data URI, no larger than `most` (width, height), in lower quality if it has more than `most_bytes`."""
    picture = Image.fromarray(image)
    picture.thumbnail(most)
    data = b""
    for attempt in (quality, 60, 40, 20, 5):
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=attempt, optimize=True)
        data = buffer.getvalue()
        if len(data) <= most_bytes:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
