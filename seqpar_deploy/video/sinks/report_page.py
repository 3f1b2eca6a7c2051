"""The HTML of the people report: one card per person, and a script that filters, sorts and plays videos."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import percent
from seqpar_deploy.reports.page import page
from seqpar_deploy.video.types import Attribute, Person

_CROP, _SCENE = (180, 300), 200  # pixels at most: a person, and the longer side of a scene
_MOST_BYTES = 12_000  # of a picture; people from cameras of many pixels, sharp all over, need more at full quality
_MOST_UNKNOWN = 6  # attributes to list on a card
_STATES = {"yes": "y", "no": "n", "unknown": "u"}
_CARDS = Html("<!-- cards -->")  # where they stand in the page; no text becomes this, it would be escaped
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
        data = _jpeg(image, (_SCENE, _SCENE), quality=55)
        style = f".scene-{number} {{ background-image: url({data}); aspect-ratio: {width} / {height}; }}\n"
        return cls(number=number, width=width, height=height, style=style)


def people_page(
    shown: int, attributes: Sequence[str], scenes: Sequence[Scene], *, streams: int, seen: int
) -> tuple[str, str]:
    """Return the document before and after its cards, which may be many megabytes.

    `attributes` by number, as in the cards; of `seen` people `shown` have a card."""
    heading = f"{seen:,} {'person' if seen == 1 else 'people'} in {streams} {'stream' if streams == 1 else 'streams'}"
    body = join(
        tag("p", "People report", class_="kind"),
        tag("h1", heading if seen else "Nobody was seen"),
        tag("p", f"The last {shown:,} to appear are shown.", class_="note") if shown < seen else None,
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
    style = _read("report.css") + "".join(scene.style for scene in scenes)
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
    hint = "Click an attribute for yes, again for no, again for unknown, again for any. All that are set must hold."
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
    crops = f"from {person.crops} {'crop' if person.crops == 1 else 'crops'}"
    words = tag(
        "div",
        title,
        tag("p", when, tag("span", f", {crops}", class_="faint"), class_="when"),
        tag("p", *yes, None if yes else "none of the attributes", class_="yes"),
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
    """The attributes that are not known, and behind a click those the person does not have, the likeliest first. Many
    that are not known are behind a click as well: cards are to stay small."""
    unknown = [name for name, one in person.attributes.items() if one.state == "unknown"]
    no = sorted(((one.probability, name) for name, one in person.attributes.items() if one.state == "no"), reverse=True)
    names = ", ".join(f"{name} {percent(probability)}" for probability, name in no)
    return join(
        _unknown(unknown) if unknown else None,
        tag("details", tag("summary", f"no: {len(no)} others"), tag("p", names), class_="faint") if no else None,
    )


def _unknown(names: Sequence[str]) -> Html:
    if len(names) <= _MOST_UNKNOWN:
        return tag("p", "unknown: ", ", ".join(names), class_="faint")
    return tag("details", tag("summary", f"unknown: {len(names)} others"), tag("p", ", ".join(names)), class_="faint")


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
    return tag("img", src=_jpeg(person.best_crop, _CROP, quality=80), alt=alt, loading="lazy", class_="crop")


def _map(person: Person, scene: Scene) -> Html:
    """Where in the frame the best crop is from."""
    box = person.best.box
    drawn = tag(
        "rect",
        x=round(box.left),
        y=round(box.top),
        width=max(1, round(box.right - box.left)),
        height=max(1, round(box.bottom - box.top)),
        vector_effect="non-scaling-stroke",
    )
    label = f"at {round(box.left)}, {round(box.top)} of {scene.width} x {scene.height}"
    return tag(
        "div",
        tag("svg", drawn, viewBox=f"0 0 {scene.width} {scene.height}", role="img", aria_label=label),
        class_=f"scene scene-{scene.number}",
    )


def _jpeg(image: RgbImage, most: tuple[int, int], *, quality: int) -> str:
    """As a data URI, no larger than `most` (width, height), of lower quality where it has more than _MOST_BYTES."""
    picture = Image.fromarray(image)
    picture.thumbnail(most)
    data = b""
    for attempt in (quality, 60, 40, 20, 5):
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=attempt, optimize=True)
        data = buffer.getvalue()
        if len(data) <= _MOST_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
