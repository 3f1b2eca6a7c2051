"""Metadata of GStreamer's buffers by ctypes, for what its Python bindings cannot do.

The bindings cannot iterate over the regions of a buffer, and do not let a query or a buffer be changed if they count
the Python object as a second owner. Functions take addresses: `address(object)` of an object of the bindings.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from typing import Any

from seqpar_deploy.video.gstreamer.regions import Region
from seqpar_deploy.video.gstreamer.structures import DETECTION, OBJECT_ID, Structure

_REFCOUNT = ctypes.sizeof(ctypes.c_size_t)  # offset in GstMiniObject, after its GType


class _Region(ctypes.Structure):
    """GstVideoRegionOfInterestMeta."""

    _fields_ = (
        ("flags", ctypes.c_int),
        ("info", ctypes.c_void_p),
        ("roi_type", ctypes.c_uint32),
        ("id", ctypes.c_int),
        ("parent_id", ctypes.c_int),
        ("x", ctypes.c_int),  # guint, into which upstream elements write negative numbers too
        ("y", ctypes.c_int),
        ("w", ctypes.c_uint),
        ("h", ctypes.c_uint),
        ("params", ctypes.c_void_p),
    )


class _Value(ctypes.Structure):
    """GValue."""

    _fields_ = (("type", ctypes.c_size_t), ("data", ctypes.c_uint64 * 2))


def _function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


class _Libraries:
    """The functions of GLib and GStreamer that are used here."""

    def __init__(self) -> None:
        pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
        gst, video = ctypes.CDLL("libgstreamer-1.0.so.0"), ctypes.CDLL("libgstvideo-1.0.so.0")
        glib, gobject = ctypes.CDLL("libglib-2.0.so.0"), ctypes.CDLL("libgobject-2.0.so.0")
        region = ctypes.POINTER(_Region)
        self.quark_text = _function(glib, "g_quark_to_string", text, ctypes.c_uint32)
        self.region_type = _function(video, "gst_video_region_of_interest_meta_api_get_type", size)()
        self.next_region = _function(
            gst, "gst_buffer_iterate_meta_filtered", region, pointer, ctypes.POINTER(pointer), size
        )
        self.add_region = _function(
            video,
            "gst_buffer_add_video_region_of_interest_meta",
            *(region, pointer, text, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint),
        )
        self.get_param = _function(video, "gst_video_region_of_interest_meta_get_param", pointer, region, text)
        self.add_param = _function(video, "gst_video_region_of_interest_meta_add_param", None, region, pointer)
        self.get_int = _function(
            gst, "gst_structure_get_int", ctypes.c_int, pointer, text, ctypes.POINTER(ctypes.c_int)
        )
        self.get_double = _function(
            gst, "gst_structure_get_double", ctypes.c_int, pointer, text, ctypes.POINTER(ctypes.c_double)
        )
        self.new_structure = _function(gst, "gst_structure_new_empty", pointer, text)
        self.copy_structure = _function(gst, "gst_structure_copy", pointer, pointer)
        self.free_structure = _function(gst, "gst_structure_free", None, pointer)
        self.set_value = _function(gst, "gst_structure_set_value", None, pointer, text, ctypes.POINTER(_Value))
        self.type_of = _function(gobject, "g_type_from_name", size, text)
        self.init_value = _function(gobject, "g_value_init", pointer, ctypes.POINTER(_Value), size)
        self.unset_value = _function(gobject, "g_value_unset", None, ctypes.POINTER(_Value))
        value = ctypes.POINTER(_Value)
        self.setters = {
            str: (self.type_of(b"gchararray"), _function(gobject, "g_value_set_string", None, value, text)),
            int: (self.type_of(b"gint"), _function(gobject, "g_value_set_int", None, value, ctypes.c_int)),
            float: (self.type_of(b"gdouble"), _function(gobject, "g_value_set_double", None, value, ctypes.c_double)),
        }
        self.peer_query = _function(gst, "gst_pad_peer_query", ctypes.c_int, pointer, pointer)
        self.crop_type = _function(video, "gst_video_crop_meta_api_get_type", size)()
        self.find_meta = _function(
            gst, "gst_query_find_allocation_meta", ctypes.c_int, pointer, size, ctypes.POINTER(ctypes.c_uint)
        )
        self.remove_meta = _function(gst, "gst_query_remove_nth_allocation_meta", None, pointer, ctypes.c_uint)
        latency = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint64)
        self.parse_latency = _function(gst, "gst_query_parse_latency", None, pointer, *latency)
        self.set_latency = _function(
            gst, "gst_query_set_latency", None, pointer, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64
        )


@functools.cache
def _libraries() -> _Libraries:
    return _Libraries()


def address(instance: object) -> int:
    """Return the address of the C object behind an object of the bindings, which is its hash."""
    return hash(instance)


@contextlib.contextmanager
def writable(instance: int) -> Iterator[None]:
    """Make a buffer or query that only its caller and Python hold count as writable.

    Bindings before PyGObject 3.43 hold no reference during a call. Later ones may. The base class made sure that
    nobody else has one.
    """
    count = ctypes.c_int.from_address(instance + _REFCOUNT)
    more = count.value - 1
    count.value -= more
    try:
        yield
    finally:
        count.value += more


def read_regions(buffer: int) -> list[Region]:
    """Return the regions of a buffer in their order. `Region.key` is what `add_structures` takes."""
    c, state, found = _libraries(), ctypes.c_void_p(), []
    while meta := c.next_region(buffer, ctypes.byref(state), c.region_type):
        region = meta.contents
        number, score = ctypes.c_int(0), ctypes.c_double(1.0)
        if structure := c.get_param(meta, OBJECT_ID.encode()):
            c.get_int(structure, b"id", ctypes.byref(number))
        if structure := c.get_param(meta, DETECTION.encode()):
            c.get_double(structure, b"confidence", ctypes.byref(score))
        found.append(
            Region(
                left=region.x,
                top=region.y,
                width=region.w,
                height=region.h,
                label=(c.quark_text(region.roi_type) or b"").decode("utf-8", "replace"),
                score=score.value,
                track_id=number.value if number.value > 0 else None,
                key=meta,
            )
        )
    return found


def add_region(buffer: int, label: str, left: int, top: int, width: int, height: int) -> object:
    """Add a region to a writable buffer, and return its key."""
    return _libraries().add_region(buffer, label.encode(), left, top, width, height)


def has_structure(key: object, name: str) -> bool:
    """Whether a region has a parameter of this name."""
    return bool(_libraries().get_param(key, name.encode()))


class Structures:
    """Structures in C's memory, to be copied to many buffers. Close it."""

    def __init__(self, structures: list[Structure]) -> None:
        self._addresses = [_new_structure(structure) for structure in structures]

    def add_to(self, key: object) -> None:
        """Add a copy of each to a region of a writable buffer."""
        c = _libraries()
        for structure in self._addresses:
            c.add_param(key, c.copy_structure(structure))  # takes the copy

    def close(self) -> None:
        """Free them. Safe to call twice."""
        while self._addresses:
            _libraries().free_structure(self._addresses.pop())


def add_structure(key: object, structure: Structure) -> None:
    """Add a structure to a region of a writable buffer."""
    _libraries().add_param(key, _new_structure(structure))


def _new_structure(structure: Structure) -> int:
    c = _libraries()
    made: int = c.new_structure(structure.name.encode())
    for name, content in structure.fields:
        value = _Value()
        kind, setter = c.setters[type(content)]
        c.init_value(ctypes.byref(value), kind)
        # A NUL would end the text early, and nothing else is refused.
        setter(ctypes.byref(value), content.encode("utf-8", "replace") if isinstance(content, str) else content)
        c.set_value(made, name.encode(), ctypes.byref(value))
        c.unset_value(ctypes.byref(value))
    return made


def ask_for_memory(pad: int, query: int) -> bool:
    """Pass an allocation query on to the peer of a pad, and remove from its answer that it crops frames itself."""
    c, index = _libraries(), ctypes.c_uint(0)
    with writable(query):
        answered = bool(c.peer_query(pad, query))
        while c.find_meta(query, c.crop_type, ctypes.byref(index)):
            c.remove_meta(query, index)
    return answered


def add_latency(query: int, nanoseconds: int) -> None:
    """Add to the latency in the answer to a query, if the pipeline is live."""
    c = _libraries()
    live, least, most = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_uint64()
    c.parse_latency(query, ctypes.byref(live), ctypes.byref(least), ctypes.byref(most))
    none = 2**64 - 1  # no upper limit
    if live.value:
        with writable(query):
            highest = none if most.value == none else most.value + nanoseconds
            c.set_latency(query, 1, least.value + nanoseconds, highest)
