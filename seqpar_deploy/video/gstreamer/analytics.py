"""People as GstAnalytics metadata, to which DL Streamer moved in 2025. Not tried on GStreamer 1.24 or newer.

GStreamer 1.22 has no such metadata. A person is an object detection, related to a tracking and to a classification with
a label for each attribute whose state is "yes". Functions take the bindings, so that tests can pass others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from seqpar_deploy.video.gstreamer.regions import Region
from seqpar_deploy.video.gstreamer.session import Tracked

LABEL = "person"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnalyticsRegion(Region):
    """A region from an object detection. Its key is the number of the detection in the buffer's metadata."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analytics:
    """What of the bindings is used.

    Attributes:
        library: The namespace GstAnalytics.
        quark_of: Function from a text to its quark.
        text_of: Function from a quark to its text.
    """

    library: Any
    quark_of: Callable[[str], int]
    text_of: Callable[[int], str | None]


def load() -> Analytics | None:
    """Return the bindings, or None if GStreamer is older than 1.24 or they are not installed."""
    import gi

    try:
        gi.require_version("GstAnalytics", "1.0")
        from gi.repository import GLib, GstAnalytics
    except (ValueError, ImportError):
        return None
    return Analytics(library=GstAnalytics, quark_of=GLib.quark_from_string, text_of=GLib.quark_to_string)


def read(analytics: Analytics, buffer: Any) -> list[Region]:
    """Return the object detections of a buffer."""
    library = analytics.library
    meta = library.buffer_get_analytics_relation_meta(buffer)
    if meta is None:
        return []
    numbers = range(library.relation_get_length(meta))
    tracks = {number: track for number in numbers for found, track in [meta.get_tracking_mtd(number)] if found}
    regions: list[Region] = []
    for number in numbers:
        found, detection = meta.get_od_mtd(number)
        if not found:
            continue
        located, left, top, width, height, score = detection.get_location()
        if not located:
            continue
        regions.append(
            AnalyticsRegion(
                left=left,
                top=top,
                width=width,
                height=height,
                label=analytics.text_of(detection.get_obj_type()) or "",
                score=score,
                track_id=_track_of(library, meta, number, tracks),
                key=number,
            )
        )
    return regions


def _track_of(library: Any, meta: Any, number: int, tracks: dict[int, Any]) -> int | None:
    for other, track in tracks.items():
        if meta.get_relation(number, other) != library.RelTypes.NONE:
            known = track.get_info()  # whether it is known, number, first seen, last seen, lost
            return int(known[1]) if known[0] and known[1] > 0 else None
    return None


def write(analytics: Analytics, buffer: Any, one: Tracked) -> None:
    """Write a person to a writable buffer: to the object detection of the region, or to a new one."""
    library = analytics.library
    meta = library.buffer_get_analytics_relation_meta(buffer) or library.buffer_add_analytics_relation_meta(buffer)
    if isinstance(one.region, AnalyticsRegion):
        number, tracked = one.region.key, one.region.track_id is not None
    else:
        box, tracked = one.box, False
        size = round(box.right - box.left), round(box.bottom - box.top)
        added, detection = meta.add_od_mtd(analytics.quark_of(LABEL), round(box.left), round(box.top), *size, box.score)
        if not added:
            return
        number = detection.id
    if not tracked:
        added, track = meta.add_tracking_mtd(one.track_id, 0)
        if added:
            meta.set_relation(library.RelTypes.RELATE_TO, number, track.id)
    for name, attribute in (one.person.attributes if one.person is not None else {}).items():
        if attribute.state == "yes":
            added, label = meta.add_one_cls_mtd(attribute.probability, analytics.quark_of(name))
            if added:
                meta.set_relation(library.RelTypes.RELATE_TO, number, label.id)
