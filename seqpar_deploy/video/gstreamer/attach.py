"""Writes the people of a frame to the metadata of its buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from seqpar_deploy.video.gstreamer import analytics, native, structures
from seqpar_deploy.video.gstreamer.session import Tracked
from seqpar_deploy.video.types import Person

LABEL = "person"  # of regions of ours, as DL Streamer's models name people


class Attacher:
    """Writes to the buffers of one stream. The structures of a person are made once per change, and then copied.

    Args:
        bindings: Those of GstAnalytics, of GStreamer 1.24 or newer, or None without them.
    """

    def __init__(self, bindings: analytics.Analytics | None = None) -> None:
        self._analytics = bindings
        self._made: dict[int, tuple[Person, native.Structures]] = {}

    def attach(self, buffer: Any, tracked: Sequence[Tracked], size: tuple[int, int]) -> None:
        """Write everyone in a frame of `size` (height, width) to a writable buffer.

        A person of a given region gets structures on that region. Others get a region of their own.
        """
        where = native.address(buffer)
        with native.writable(where):
            for one in tracked:
                if self._analytics is not None and isinstance(one.region, analytics.AnalyticsRegion):
                    analytics.write(self._analytics, buffer, one)
                    continue
                key = one.region.key if one.region is not None else self._new_region(where, one, size)
                if not native.has_structure(key, structures.OBJECT_ID):
                    native.add_structure(key, structures.object_id(one.track_id))
                if one.person is not None:
                    self._structures(one.person).add_to(key)
                if one.region is None and self._analytics is not None:
                    analytics.write(self._analytics, buffer, one)
        self._forget({one.track_id for one in tracked})

    def close(self) -> None:
        """Free what was made."""
        self._forget(set())

    def _new_region(self, buffer: int, one: Tracked, size: tuple[int, int]) -> object:
        box = one.box
        left, top = math.floor(box.left), math.floor(box.top)
        width, height = math.ceil(box.right) - left, math.ceil(box.bottom) - top
        key = native.add_region(buffer, LABEL, left, top, width, height)
        native.add_structure(key, structures.detection(box, size[1], size[0]))
        return key

    def _structures(self, person: Person) -> native.Structures:
        """Return the structures of a person, who is another object after each change."""
        made = self._made.get(person.track_id)
        if made is None or made[0] is not person:
            if made is not None:
                made[1].close()
            made = self._made[person.track_id] = person, native.Structures(structures.of_person(person))
        return made[1]

    def _forget(self, kept: set[int]) -> None:
        for number in [number for number in self._made if number not in kept]:
            self._made.pop(number)[1].close()
