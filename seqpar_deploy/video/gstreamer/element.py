"""The element `seqparattributes`. It imports GStreamer's Python bindings, and the runtime only when it starts."""

from __future__ import annotations

import functools
import logging
import traceback
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, GObject, Gst, GstBase, GstVideo  # noqa: E402

from seqpar_deploy.errors import SeqparError  # noqa: E402
from seqpar_deploy.video.detect.opencv import import_cv2  # noqa: E402
from seqpar_deploy.video.gstreamer import analytics, native, shared, structures  # noqa: E402
from seqpar_deploy.video.gstreamer.attach import Attacher  # noqa: E402
from seqpar_deploy.video.gstreamer.frames import FORMATS, Layout, to_rgb  # noqa: E402
from seqpar_deploy.video.gstreamer.regions import LABELS, Region  # noqa: E402
from seqpar_deploy.video.gstreamer.session import Session  # noqa: E402
from seqpar_deploy.video.gstreamer.settings import REGIONS, Settings, refused_memory  # noqa: E402
from seqpar_deploy.video.types import Detector, Event  # noqa: E402

NAME = "seqparattributes"
_FIELDS = "width=(int)[1,65536],height=(int)[1,65536],framerate=(fraction)[0/1,2147483647/1]"
_FORMATS = f"format=(string){{{','.join(FORMATS)}}},{_FIELDS}"
# Any memory links, so that the frames of a GPU are refused with a line that names the converter.
_CAPS = f"video/x-raw,{_FORMATS};video/x-raw(ANY),{_FORMATS}"
_FLAGS = GObject.ParamFlags.READWRITE | Gst.PARAM_MUTABLE_READY
_MATRICES = {
    GstVideo.VideoColorMatrix.BT709: "bt709",
    GstVideo.VideoColorMatrix.BT2020: "bt2020",
    GstVideo.VideoColorMatrix.SMPTE240M: "smpte240m",
    GstVideo.VideoColorMatrix.FCC: "fcc",
}
_log = logging.getLogger(__name__)
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _text(nick: str, blurb: str, default: str | None) -> tuple[Any, ...]:
    return (str, nick, blurb, default, _FLAGS)


def _flag(nick: str, blurb: str, default: bool) -> tuple[Any, ...]:
    return (bool, nick, blurb, default, _FLAGS)


def _number(nick: str, blurb: str, kind: type, least: float, most: float, default: float) -> tuple[Any, ...]:
    return (kind, nick, blurb, kind(least), kind(most), kind(default), _FLAGS)


PROPERTIES: dict[str, tuple[Any, ...]] = {
    "bundle": _text("Bundle", "Folder of the bundle, as written by seqpar export. Required", None),
    "backend": _text("Backend", "Backend that runs the bundle, as of seqpar video --backend", "auto"),
    "thresholds": _text("Thresholds", "TOML file of thresholds. Default: those of the bundle's calibration", None),
    "threads": _number("Threads", "CPU threads per inference. 0 is the backend's choice", int, 0, 1024, 0),
    "detector": _text(
        "Detector", "regions (those of an upstream element), motion (for fixed cameras), or an .onnx file", REGIONS
    ),
    "detector-threshold": _number(
        "Detector threshold", "Minimum score of an .onnx detector. -1 is its default", float, -1, 1, -1
    ),
    "region-labels": _text("Region labels", "Labels of regions that are people, or * for all", ",".join(LABELS)),
    "use-track-ids": _flag("Use track IDs", "Use the track IDs of the regions if they have any", True),
    "stream": _text("Stream", "Name of the stream in events. Default: the name of the element", None),
    "crops-per-second": _number("Crops per second", "Crops to recognise per second on average", float, 0, 1e6, 10),
    "max-latency": _number(
        "Maximum latency", "Seconds after which a new person is recognised, however poor the crop", float, 0, 3600, 0.5
    ),
    "frame-budget": _number(
        "Frame budget", "Milliseconds that a frame may wait for its regions. Unused with sync", int, 0, 10000, 40
    ),
    "sync": _flag("Sync", "Recognise each frame before it passes, for files and tests. Not for live sources", False),
}


def _default(name: str) -> Any:
    spec = PROPERTIES[name]
    return spec[3 if spec[0] in (str, bool) else 5]


def _guarded(default: Any) -> Callable[[_Method], _Method]:
    """Make a virtual method post an exception as an error, and return `default`: C code cannot handle exceptions."""

    def decorate(method: _Method) -> _Method:
        @functools.wraps(method)
        def guarded(self: SeqparAttributes, *arguments: Any) -> Any:
            try:
                return method(self, *arguments)
            except Exception as error:
                self.post_error(error)
                return default

        return guarded  # type: ignore[return-value]

    return decorate


class SeqparAttributes(GstBase.BaseTransform):  # type: ignore[misc]
    """Adds the attributes of people to the regions of frames. Pixels pass unchanged."""

    __gtype_name__ = "SeqparAttributes"
    __gstmetadata__ = (
        "Pedestrian attributes",
        "Filter/Analyzer/Video",
        "Tracks people, recognises their attributes, and adds them to the regions of the frames",
        "seqpar-deploy",
    )
    __gsttemplates__ = tuple(
        Gst.PadTemplate.new(name, direction, Gst.PadPresence.ALWAYS, Gst.Caps.from_string(_CAPS))
        for name, direction in (("sink", Gst.PadDirection.SINK), ("src", Gst.PadDirection.SRC))
    )
    __gproperties__ = PROPERTIES

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[str, Any] = {name: _default(name) for name in PROPERTIES}
        self._session: Session | None = None
        self._lease: shared.Lease | None = None
        self._detector: Detector | None = None
        self._attacher: Attacher | None = None
        self._analytics: analytics.Analytics | None = None
        self._info: Any = None
        self._segment: Any = None
        self._failed = False
        self._last_id = 0  # greatest track ID so far: a restart continues, because stream and ID name a person
        self._warned: set[str] = set()
        self.set_in_place(True)  # buffers that others hold too are copied, without their pixels
        self.set_passthrough(False)
        self.set_gap_aware(True)
        # The bindings cannot override `query` of the base class, so a probe changes the answers.
        kind = Gst.PadProbeType.QUERY_UPSTREAM | Gst.PadProbeType.PULL
        self.srcpad.add_probe(kind, _add_latency, weakref.ref(self))  # strong, it would keep the element alive

    def do_get_property(self, spec: Any) -> Any:
        return self._values[spec.name]

    def do_set_property(self, spec: Any, value: Any) -> None:
        self._values[spec.name] = _default(spec.name) if value is None else value

    @_guarded(False)
    def do_start(self) -> bool:
        """Open bundle and detector. It takes as long as that takes."""
        _install_log()
        self._failed = False
        settings = Settings(**{name.replace("-", "_"): each for name, each in self._values.items() if name != "stream"})
        options = settings.session()
        import_cv2()  # its absence is told now, and not at the first frame
        try:
            self._lease = shared.lease(settings.request())
            self._detector = settings.open_detector()
            self._analytics = analytics.load()
            self._attacher = Attacher(self._analytics)
            self._session = Session(
                self._lease.recognizer,
                self._post_event,
                stream=self._values["stream"] or self.get_name(),
                options=options,
                detector=self._detector,
                on_error=self.post_error,
                on_warning=self._post_warning,
                after=self._last_id,
            )
        except BaseException:
            self._release()
            raise
        return True

    @_guarded(True)
    def do_stop(self) -> bool:
        self._release()
        return True

    def do_change_state(self, transition: Any) -> Any:
        """Shut recognition before the base class waits for the streaming thread, which may be at its last crops."""
        session = self._session
        if session is not None and transition == Gst.StateChange.PAUSED_TO_READY:
            session.shut()
        return GstBase.BaseTransform.do_change_state(self, transition)

    @_guarded(False)
    def do_set_caps(self, caps: Any, _out_caps: Any) -> bool:
        info = GstVideo.VideoInfo.new_from_caps(caps)
        if info is None:
            return False
        before, self._info = self._info, info
        resized = before is not None and (before.width, before.height) != (info.width, info.height)
        if self._session is not None and resized:
            self._session.restart()  # boxes of another size cannot be compared
        if info.par_n != info.par_d:
            self._warn_once(
                f"pixels are {info.par_n}:{info.par_d}, not square, so people are out of shape; put videoscale ! "
                "video/x-raw,pixel-aspect-ratio=1/1 before the element"
            )
        return True

    @_guarded(Gst.FlowReturn.ERROR)
    def do_transform_ip(self, buffer: Any) -> Any:
        session, info = self._session, self._info
        if session is None or info is None:
            return Gst.FlowReturn.NOT_NEGOTIATED
        if self._failed:
            return Gst.FlowReturn.ERROR
        regions = self._regions(buffer) if self._detector is None else []
        size = info.height, info.width
        tracked = session.process(lambda: self._picture(buffer, info), size, self._seconds(buffer), regions)
        if tracked and self._attacher is not None:
            self._attacher.attach(buffer, tracked, size)
        return Gst.FlowReturn.OK

    def do_sink_event(self, event: Any) -> bool:
        self._before_event(event)
        return bool(GstBase.BaseTransform.do_sink_event(self, event))

    @_guarded(None)
    def _before_event(self, event: Any) -> None:
        if event.type == Gst.EventType.SEGMENT:
            self._segment = event.parse_segment().copy()
        elif self._session is None:
            return
        elif event.type == Gst.EventType.TAG:
            found, turned = event.parse_tag().get_string(Gst.TAG_IMAGE_ORIENTATION)
            if found and turned != "rotate-0":
                self._warn_once(
                    f"frames are to be shown with {turned}, and are read as they are; put videoflip "
                    "video-direction=auto before the element"
                )
        elif event.type == Gst.EventType.EOS:
            if not self._failed:
                self._session.finish()
        elif event.type == Gst.EventType.FLUSH_STOP:
            self._session.restart()

    @_guarded(False)
    def do_accept_caps(self, direction: Any, caps: Any) -> bool:
        for place in range(caps.get_size()):
            if (line := refused_memory(caps.get_features(place).to_string())) is not None:
                self.post_error(SeqparError(line))
                return False
        return bool(GstBase.BaseTransform.do_accept_caps(self, direction, caps))

    @_guarded(None)
    def do_transform_caps(self, direction: Any, caps: Any, wanted: Any) -> Any:
        """Return caps unchanged, but refuse other memory upstream, so that a converter before this one chooses ours.

        An upstream element that has nothing else may go on to `do_accept_caps`, which posts the line.
        """
        if direction == Gst.PadDirection.SRC and not (wanted is not None and _all_refused(wanted)):
            kept = Gst.Caps.new_empty()
            for place in range(caps.get_size()):
                features = caps.get_features(place)
                if refused_memory(features.to_string()) is None:
                    kept.append_structure_full(caps.get_structure(place).copy(), features.copy())
            caps = kept
        return wanted.intersect_full(caps, Gst.CapsIntersectMode.FIRST) if wanted is not None else caps

    @_guarded(False)
    def do_propose_allocation(self, _decided: Any, query: Any) -> bool:
        """Ask downstream, since frames pass as they are. Who crops them must do so before us, not downstream."""
        return native.ask_for_memory(native.address(self.srcpad), native.address(query))

    def added_latency(self) -> int:
        """Return the nanoseconds that a frame of a live source may wait here."""
        return 0 if self._values["sync"] else int(self._values["frame-budget"] * Gst.MSECOND)

    def post_error(self, error: Exception) -> None:
        """Post an error of one line, once. The traceback of an error that no user can fix is its debug text."""
        if self._failed:
            return
        self._failed = True
        ours = isinstance(error, SeqparError)
        text = str(error) if ours else f"internal error: {type(error).__name__}: {error}"
        debug = "".join(traceback.format_exception(error)) if not ours else NAME
        gerror = GLib.Error.new_literal(Gst.StreamError.quark(), " ".join(text.split()), Gst.StreamError.FAILED)
        self.post_message(Gst.Message.new_error(self, gerror, debug))

    def _warn_once(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            self._post_warning(line)

    def _post_warning(self, line: str) -> None:
        gerror = GLib.Error.new_literal(Gst.StreamError.quark(), line, Gst.StreamError.FAILED)
        self.post_message(Gst.Message.new_warning(self, gerror, NAME))

    def _post_event(self, event: Event) -> None:
        name, fields = structures.of_event(event)
        structure = Gst.Structure.new_empty(name)
        for field, value in fields:
            structure.set_value(field, value)
        self.post_message(Gst.Message.new_element(self, structure))

    def _regions(self, buffer: Any) -> list[Region]:
        regions = native.read_regions(native.address(buffer))
        if not regions and self._analytics is not None:
            return analytics.read(self._analytics, buffer)
        return regions

    def _seconds(self, buffer: Any) -> float | None:
        """Return the running time of a buffer, as at normal speed if it plays faster or slower."""
        segment = self._segment
        if buffer.pts == Gst.CLOCK_TIME_NONE or segment is None:
            return None
        if segment.format != Gst.Format.TIME:
            return float(buffer.pts / Gst.SECOND)
        time = segment.to_running_time(Gst.Format.TIME, buffer.pts)
        if time == Gst.CLOCK_TIME_NONE:
            return None
        return float((segment.base + (time - segment.base) * abs(segment.rate)) / Gst.SECOND)

    def _picture(self, buffer: Any, info: Any) -> Any:
        meta = GstVideo.buffer_get_video_meta(buffer)
        layout = _layout(info, meta if meta is not None else info)
        with buffer.map(Gst.MapFlags.READ) as memory:
            return to_rgb(memory.data, layout)

    def _release(self) -> None:
        """Close what `do_start` opened, in reverse order. A part whose thread hangs is left open."""
        session, detector, lease, attacher = self._session, self._detector, self._lease, self._attacher
        self._session = self._detector = self._lease = self._attacher = self._info = self._segment = None
        ended = session is None or session.close()
        if session is not None:
            self._last_id = session.last_id
        if attacher is not None:
            attacher.close()
        if ended and detector is not None:
            detector.close()
        if ended and lease is not None:
            lease.close()


def _layout(info: Any, planes: Any) -> Layout:
    colours = info.colorimetry
    return Layout(
        format=info.finfo.name,
        width=info.width,
        height=info.height,
        strides=tuple(planes.stride),
        offsets=tuple(planes.offset),
        matrix=_MATRICES.get(colours.matrix, "bt601"),
        full_range=colours.range == getattr(GstVideo.VideoColorRange, "0_255", GstVideo.VideoColorRange(1)),
    )


def _all_refused(caps: Any) -> bool:
    lines = [refused_memory(caps.get_features(place).to_string()) for place in range(caps.get_size())]
    return bool(lines) and None not in lines


def _add_latency(_pad: Any, info: Any, element: Callable[[], SeqparAttributes | None]) -> Any:
    """Add the budget to the answer to a query for the latency, so that live sinks wait for frames that wait here."""
    query, one = info.get_query(), element()
    if query is not None and one is not None and query.type == Gst.QueryType.LATENCY:
        native.add_latency(native.address(query), one.added_latency())
    return Gst.PadProbeReturn.OK


class _GstLog(logging.Handler):
    """Passes the package's log on to GStreamer's, category python."""

    def emit(self, record: logging.LogRecord) -> None:
        write = Gst.warning if record.levelno >= logging.WARNING else Gst.debug
        write(" ".join(self.format(record).split()))


@functools.cache
def _install_log() -> None:
    logging.getLogger("seqpar_deploy").addHandler(_GstLog(logging.WARNING))


GObject.type_register(SeqparAttributes)
