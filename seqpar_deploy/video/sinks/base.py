"""The base class of sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox, ZoneEvent


class BaseSink:
    """A `Sink` that ignores everything. Override the methods that you need.

    Attributes:
        name: Name of the sink in log lines and metrics. Default: the name of the class.

    Example:
        class Doorbell(BaseSink):
            def event(self, event: Event) -> None:
                if event.kind == "appeared":
                    print("ding", event.person.labels)
    """

    name: str = ""

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """Receive a tracked frame, in order within its stream.

        Args:
            frame: The frame.
            boxes: All tracked people in it.
            people: The stream's people who have attributes, by track ID.
        """

    def event(self, event: Event) -> None:
        """Receive an event. Events of one track arrive in order.

        Args:
            event: The event.
        """

    def zone(self, event: ZoneEvent) -> None:
        """Receive an event of a zone or line. Those of one stream arrive in order.

        Args:
            event: The event.
        """

    def stream_ended(self, stream: str) -> None:
        """Receive the end of a stream, after the last frame and event of it.

        Args:
            stream: Name of the stream. A later stream may have the same name.
        """

    def close(self) -> None:
        """Flush and close at the end of the run. Safe to call twice."""
