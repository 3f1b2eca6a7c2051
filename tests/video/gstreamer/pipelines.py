"""Jobs with pipelines, for the system's Python, which has GStreamer's bindings. Each prints lines of JSON.

has NAME...              fails if an element is missing
run PIPELINE             its messages: events, errors, warnings and the end
held PIPELINE            the same with a model that answers only after all frames have passed the sink `end`
seek PIPELINE            the same, with a flushing seek to the start after ten frames at the sink `end`
together PIPELINE        the number of open recognizers while it runs, and after
cycles COUNT PIPELINE    memory, threads, files and elements left after each run
"""

from __future__ import annotations

import gc
import json
import os
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

Gst.init(None)
WITHIN = 200 * Gst.SECOND
_TYPES = Gst.MessageType.EOS | Gst.MessageType.ERROR | Gst.MessageType.WARNING | Gst.MessageType.ELEMENT


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def messages(pipeline: Gst.Element) -> Iterator[Gst.Message]:
    """The messages up to the end or the first error."""
    bus = pipeline.get_bus()
    while True:
        message = bus.timed_pop_filtered(WITHIN, _TYPES)
        if message is None:
            raise SystemExit("nothing came for minutes")
        yield message
        if message.type in (Gst.MessageType.EOS, Gst.MessageType.ERROR):
            return


def tell(message: Gst.Message) -> None:
    structure = message.get_structure()
    if message.type == Gst.MessageType.ELEMENT:
        if structure.get_name() == "seqpar-event":
            event = json.loads(structure.get_value("json"))
            say(kind="event", track=structure.get_value("track-id"), source=message.src.get_name(), event=event)
    elif message.type == Gst.MessageType.EOS:
        say(kind="end")
    else:
        parsed = message.parse_error() if message.type == Gst.MessageType.ERROR else message.parse_warning()
        kind = "error" if message.type == Gst.MessageType.ERROR else "warning"
        say(kind=kind, text=parsed[0].message, debug=parsed[1])


def play(pipeline: Gst.Element) -> None:
    pipeline.set_state(Gst.State.PLAYING)
    for message in messages(pipeline):
        tell(message)
    pipeline.set_state(Gst.State.NULL)


def has(*names: str) -> None:
    if missing := [name for name in names if Gst.ElementFactory.find(name) is None]:
        raise SystemExit(f"GStreamer has no {' '.join(missing)}; .ci/system installs it")


def run(text: str) -> None:
    play(Gst.parse_launch(text))


def counted(pipeline: Gst.Element, call: Any) -> None:
    """Call `call(number)` for each frame that arrives at `end`, from 1."""
    seen = [0]

    def probe(_pad: Gst.Pad, _info: Any) -> Any:
        seen[0] += 1
        call(seen[0])
        return Gst.PadProbeReturn.OK

    pipeline.get_by_name("end").get_static_pad("sink").add_probe(Gst.PadProbeType.BUFFER, probe)


def held(frames: str, text: str) -> None:
    """Hold the model until all `frames` have passed. If the element waited for it, nothing would come."""
    from video.gstreamer.people import FakeRecognizer

    from seqpar_deploy.video.gstreamer import shared

    recognizer = FakeRecognizer()
    recognizer.held.clear()
    shared.open_bundle = lambda _request: recognizer
    pipeline = Gst.parse_launch(text)
    started = []

    def arrived(number: int) -> None:
        started.append(recognizer.started.is_set())
        if number == int(frames):
            recognizer.held.set()

    counted(pipeline, arrived)
    play(pipeline)
    say(kind="frames", passed=len(started), meanwhile=sum(started), closed=recognizer.closed)


def seek(text: str) -> None:
    pipeline = Gst.parse_launch(text)
    pipeline.set_state(Gst.State.PAUSED)
    pipeline.get_state(WITHIN)
    import threading

    due = threading.Event()
    counted(pipeline, lambda number: due.set() if number == 10 else None)
    pipeline.set_state(Gst.State.PLAYING)
    if not due.wait(WITHIN / Gst.SECOND):
        raise SystemExit("ten frames did not come")
    if not pipeline.seek_simple(Gst.Format.TIME, Gst.SeekFlags.FLUSH, 0):
        raise SystemExit("the seek failed")
    for message in messages(pipeline):
        tell(message)
    pipeline.set_state(Gst.State.NULL)


def twice(text: str) -> None:
    """Play, stop and play again, as who restarts a lost stream does."""
    pipeline = Gst.parse_launch(text)
    play(pipeline)
    play(pipeline)


def fast(rate: str, text: str) -> None:
    """Play at another speed."""
    pipeline = Gst.parse_launch(text)
    pipeline.set_state(Gst.State.PAUSED)
    pipeline.get_state(WITHIN)
    flags = Gst.SeekFlags.FLUSH
    if not pipeline.seek(float(rate), Gst.Format.TIME, flags, Gst.SeekType.SET, 0, Gst.SeekType.NONE, 0):
        raise SystemExit("the seek failed")
    play(pipeline)


def pushed(form: str, text: str) -> None:
    """Push 20 frames, 5 per second, of a source whose segment is in this format. Somebody leaves for a minute."""
    pipeline = Gst.parse_launch(text)
    source = pipeline.get_by_name("source")
    source.set_property("format", getattr(Gst.Format, form))
    for number in range(20):
        buffer = Gst.Buffer.new_wrapped(bytes(128 * 128 * 3))
        buffer.pts = int((number / 5 + (60 if number >= 10 else 0)) * Gst.SECOND)
        source.emit("push-buffer", buffer)
    source.emit("end-of-stream")
    play(pipeline)


def offered(text: str) -> None:
    """Say what the element saw of a picture whose right half is wanted, if who is behind it offers to crop."""
    from gi.repository import GObject, GstVideo

    from seqpar_deploy.video.gstreamer import element, native

    kinds = [GstVideo.video_meta_api_get_type(), GstVideo.video_crop_meta_api_get_type()]
    names = [GObject.type_name(kind) for kind in kinds]
    say(kind="offer", names=names)
    read = element.to_rgb

    def spy(data: Any, layout: Any) -> Any:
        picture = read(data, layout)
        say(kind="picture", first=picture[0, 0].tolist())
        return picture

    def answer(_pad: Gst.Pad, info: Any) -> Any:
        query = info.get_query()
        if query.type != Gst.QueryType.ALLOCATION:
            return Gst.PadProbeReturn.OK
        with native.writable(native.address(query)):
            for kind in kinds:
                query.add_allocation_meta(kind, None)
        return Gst.PadProbeReturn.HANDLED

    element.to_rgb = spy
    pipeline = Gst.parse_launch(text)
    end = pipeline.get_by_name("end").get_static_pad("sink")
    end.add_probe(Gst.PadProbeType.QUERY_DOWNSTREAM, answer)
    play(pipeline)


def together(text: str) -> None:
    from seqpar_deploy.video.gstreamer import shared

    pipeline = Gst.parse_launch(text)
    pipeline.set_state(Gst.State.PAUSED)
    pipeline.get_state(WITHIN)
    say(kind="open", count=shared.in_use())
    play(pipeline)
    say(kind="open", count=shared.in_use())


def cycles(count: str, text: str) -> None:
    from seqpar_deploy.video.gstreamer import shared

    for _ in range(int(count)):
        pipeline = Gst.parse_launch(text)
        pipeline.set_state(Gst.State.PLAYING)
        events = errors = 0
        for message in messages(pipeline):
            structure = message.get_structure()
            events += structure is not None and structure.get_name() == "seqpar-event"
            errors += message.type == Gst.MessageType.ERROR
        pipeline.set_state(Gst.State.NULL)
        element = weakref.ref(pipeline.get_by_name("attributes"))
        del pipeline, message, structure
        gc.collect()
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        say(
            megabytes=pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            threads=len(os.listdir("/proc/self/task")),
            files=len(os.listdir("/proc/self/fd")),
            events=events,
            errors=errors,
            elements=int(element() is not None),
            recognizers=shared.in_use(),
        )


JOBS = (has, run, held, seek, twice, fast, pushed, offered, together, cycles)

if __name__ == "__main__":
    {job.__name__: job for job in JOBS}[sys.argv[1]](*sys.argv[2:])
