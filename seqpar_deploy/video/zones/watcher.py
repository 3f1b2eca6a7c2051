"""The sink between the pipeline and the outputs that makes events of zones and lines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.draw_zones import Outline
from seqpar_deploy.video.sinks.fan_out import Sinks
from seqpar_deploy.video.sinks.metrics import Metrics
from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox
from seqpar_deploy.video.zones.meters import ZoneMeters
from seqpar_deploy.video.zones.placing import Size, warn_of_pixels
from seqpar_deploy.video.zones.scene import Scene
from seqpar_deploy.video.zones.settings import MaskSettings, SceneSettings

_NOTHING = SceneSettings()


class ZoneWatcher(BaseSink):
    """A `Sink` that passes frames and events on to other sinks, and emits the events of zones and lines to them.

    The place of a person is the middle of the lower edge of the box. A track has left all zones if it has ended, or
    after `leave_after` seconds without a sighting. Streams without a scene only pass through.

    Args:
        inner: The sinks.
        scenes: Zones, lines and masks by the stream's name. Default: none.
        metrics: Metrics to update. Default: not published.
        leave_after: Seconds without a sighting after which a track has left, as `LifetimeOptions.leave_after`.
            Default: 2.
        clock: Function that returns the time of day in seconds, for live streams: intervals of counts then begin at
            its multiples, for example at full hours. Default: none, intervals begin with the stream.

    Example:
        scene = SceneSettings(lines={"door": LineSettings(points=((0.2, 0.6), (0.8, 0.6)))})
        zones = ZoneWatcher(Sinks([JsonlSink("people.jsonl")]), {"street": scene})
        watch("street.mp4", recognizer, sinks=[zones])
    """

    name = "zones"

    def __init__(
        self,
        inner: Sinks,
        scenes: Mapping[str, SceneSettings] | None = None,
        *,
        metrics: Metrics | None = None,
        leave_after: float = 2.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._inner, self._leave_after, self._clock = inner, leave_after, clock
        self._meters = ZoneMeters(metrics or Metrics())
        self._lock = threading.Lock()  # never held during a call of the sinks
        self._settings: dict[str, SceneSettings] = {}
        self._scenes: dict[str, Scene] = {}
        self._sizes: dict[str, Size] = {}  # of the latest frames, by stream
        for stream, scene in (scenes or {}).items():
            self.set_scene(stream, scene)

    def set_scene(self, stream: str, scene: SceneSettings | None) -> None:
        """Replace the zones, lines and masks of a stream, from its next frame. Safe in any thread.

        Zones and lines that stay as they are keep their people and counts. The others end: people leave them, and
        their last interval is emitted.

        Args:
            stream: Name of the stream.
            scene: The new zones, lines and masks, or None for none.
        """
        scene = scene or _NOTHING
        with self._lock:
            before = self._settings.pop(stream, _NOTHING)
            gone = {*before.zones, *before.lines} - {*scene.zones, *scene.lines}
            if scene:
                self._settings[stream] = scene
                self._meters.present(stream, scene.zones.keys() - before.zones, scene.lines.keys() - before.lines)
            if gone and stream not in self._scenes:
                self._meters.forget(stream, gone)

    def masks(self, stream: str) -> Sequence[MaskSettings]:
        """Return the masks of a stream, for a `MaskedTracker`. Safe in any thread.

        Args:
            stream: Name of the stream.
        """
        with self._lock:
            return tuple(self._settings.get(stream, _NOTHING).masks.values())

    def outlines(self, stream: str) -> list[Outline]:
        """Return the zones and lines of a stream to draw, with their numbers of people. Safe in any thread.

        Args:
            stream: Name of the stream.
        """
        with self._lock:
            scene = self._scenes.get(stream)
            return scene.outlines() if scene else []

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        with self._lock:
            settings = self._settings.get(frame.stream, _NOTHING)
            self._note_size(frame, settings)
            scene = self._scenes.get(frame.stream)
            if scene is None and (settings.zones or settings.lines):
                scene = self._scenes[frame.stream] = self._new(frame.stream, settings)
            events = scene.frame(frame, boxes, people, settings) if scene else []
            if scene and not scene.names:
                del self._scenes[frame.stream]
        for event in events:
            self._inner.zone(event)
        self._inner.frame(frame, boxes, people)

    def event(self, event: Event) -> None:
        if event.kind == "ended":
            with self._lock:
                scene = self._scenes.get(event.person.stream)
                events = scene.ended(event.person) if scene else []
            for one in events:
                self._inner.zone(one)
        self._inner.event(event)

    def stream_ended(self, stream: str) -> None:
        """End a stream: everybody leaves its zones, and the last intervals are emitted.

        Args:
            stream: Name of the stream.
        """
        with self._lock:
            scene = self._scenes.pop(stream, None)
            self._sizes.pop(stream, None)
            names = scene.names if scene else set()
            events = scene.end() if scene else []
            settings = self._settings.get(stream, _NOTHING)
            self._meters.forget(stream, names - {*settings.zones, *settings.lines})
        for event in events:
            self._inner.zone(event)
        self._inner.stream_ended(stream)

    def close(self) -> None:
        for stream in list(self._scenes):
            self.stream_ended(stream)
        self._inner.close()

    def _note_size(self, frame: Frame, settings: SceneSettings) -> None:
        size = frame.image.shape[1], frame.image.shape[0]
        before = self._sizes.get(frame.stream)
        self._sizes[frame.stream] = size
        if before not in (None, size):
            for shapes in (settings.zones, settings.lines, settings.masks):
                for name, shape in shapes.items():
                    warn_of_pixels(f"{frame.stream}: {name}", shape.points, before, size)

    def _new(self, stream: str, settings: SceneSettings) -> Scene:
        return Scene(stream, settings, leave_after=self._leave_after, meters=self._meters, clock=self._clock)
