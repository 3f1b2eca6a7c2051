"""GstAnalytics, on a stand-in for its bindings: GStreamer 1.22 has none. The calls are those of version 1.24."""

from __future__ import annotations

import dataclasses
from typing import Any

from video.sinks.people import attributes, person

from seqpar_deploy.video.gstreamer import analytics
from seqpar_deploy.video.gstreamer.analytics import Analytics, AnalyticsRegion
from seqpar_deploy.video.gstreamer.session import Tracked
from seqpar_deploy.video.types import Box


@dataclasses.dataclass
class Mtd:
    """One of the records of a relation meta. Its ID is its place."""

    id: int
    kind: str
    values: tuple[Any, ...]

    def get_location(self) -> tuple[Any, ...]:
        return True, *self.values[1:6]

    def get_obj_type(self) -> Any:
        return self.values[0]

    def get_info(self) -> tuple[Any, ...]:
        return True, self.values[0], 0, 0, False


class RelationMeta:
    """GstAnalyticsRelationMeta."""

    def __init__(self) -> None:
        self.records: list[Mtd] = []
        self.relations: dict[tuple[int, int], str] = {}

    def _add(self, kind: str, *values: Any) -> tuple[bool, Mtd]:
        self.records.append(Mtd(len(self.records), kind, values))
        return True, self.records[-1]

    def add_od_mtd(self, quark: int, x: int, y: int, w: int, h: int, score: float) -> tuple[bool, Mtd]:
        assert all(isinstance(value, int) for value in (quark, x, y, w, h))
        return self._add("od", quark, x, y, w, h, score)

    def add_one_cls_mtd(self, score: float, quark: int) -> tuple[bool, Mtd]:
        return self._add("cls", score, quark)

    def add_tracking_mtd(self, number: int, first_seen: int) -> tuple[bool, Mtd]:
        return self._add("track", number, first_seen)

    def _get(self, kind: str, number: int) -> tuple[bool, Mtd | None]:
        found = self.records[number].kind == kind
        return found, self.records[number] if found else None

    def get_od_mtd(self, number: int) -> tuple[bool, Mtd | None]:
        return self._get("od", number)

    def get_tracking_mtd(self, number: int) -> tuple[bool, Mtd | None]:
        return self._get("track", number)

    def set_relation(self, kind: str, first: int, second: int) -> None:
        self.relations[first, second] = kind

    def get_relation(self, first: int, second: int) -> str:
        return self.relations.get((first, second), Library.RelTypes.NONE)


class Library:
    """The namespace GstAnalytics, for buffers that are lists of metadata."""

    class RelTypes:
        NONE, RELATE_TO = "none", "relate-to"

    @staticmethod
    def buffer_get_analytics_relation_meta(buffer: list[RelationMeta]) -> RelationMeta | None:
        return buffer[0] if buffer else None

    @staticmethod
    def buffer_add_analytics_relation_meta(buffer: list[RelationMeta]) -> RelationMeta:
        buffer.append(RelationMeta())
        return buffer[0]

    @staticmethod
    def relation_get_length(meta: RelationMeta) -> int:
        return len(meta.records)


QUARKS: list[str] = ["", "person"]


def quark_of(text: str) -> int:
    if text not in QUARKS:
        QUARKS.append(text)
    return QUARKS.index(text)


BINDINGS = Analytics(library=Library, quark_of=quark_of, text_of=QUARKS.__getitem__)
BOX = Box(left=10.4, top=20, right=40.4, bottom=100, score=0.75)


def test_detections_and_their_tracks_are_read() -> None:
    meta = RelationMeta()
    meta.add_od_mtd(1, 10, 20, 30, 80, 0.75)
    meta.add_tracking_mtd(12, 0)
    meta.add_od_mtd(1, 50, 20, 30, 80, 0.5)
    meta.set_relation("relate-to", 0, 1)
    first, second = analytics.read(BINDINGS, [meta])
    assert (first.left, first.top, first.width, first.height, first.score) == (10, 20, 30, 80, 0.75)
    assert (first.label, first.track_id, first.key) == ("person", 12, 0)
    assert (second.track_id, second.key) == (None, 2)
    assert analytics.read(BINDINGS, []) == []


def test_a_person_of_ours_is_a_detection_with_track_and_labels() -> None:
    buffer: list[RelationMeta] = []
    who = person(attributes=attributes(("hat",), names=("hat", "female")))
    analytics.write(BINDINGS, buffer, Tracked(track_id=5, box=BOX, region=None, person=who))
    detection, track, label = buffer[0].records
    assert detection.values == (1, 10, 20, 30, 80, 0.75)
    assert track.values[0] == 5
    assert (QUARKS[label.values[1]], label.values[0]) == ("hat", 0.93)
    assert set(buffer[0].relations) == {(0, 1), (0, 2)}
    assert analytics.read(BINDINGS, buffer)[0].track_id == 5


def test_a_given_detection_gets_labels_and_keeps_its_track() -> None:
    meta = RelationMeta()
    meta.add_od_mtd(1, 10, 20, 30, 80, 0.75)
    for track_id in (None, 3):
        region = AnalyticsRegion(left=10, top=20, width=30, height=80, key=0, track_id=track_id)
        analytics.write(BINDINGS, [meta], Tracked(track_id=3, box=BOX, region=region, person=None))
    assert [record.kind for record in meta.records] == ["od", "track"]
