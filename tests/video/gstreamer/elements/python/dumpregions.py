"""`dumpregions`: writes the regions of each frame as a line of JSON, and its pixels, without code of seqpar_deploy."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import gi

gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GObject, Gst, GstBase, GstVideo  # noqa: E402

_CAPS = Gst.Caps.from_string("video/x-raw")
_FLAGS = GObject.ParamFlags.READWRITE
_GST, _GLIB = ctypes.CDLL("libgstreamer-1.0.so.0"), ctypes.CDLL("libglib-2.0.so.0")
_GST.gst_buffer_iterate_meta_filtered.restype = ctypes.c_void_p
_GST.gst_buffer_iterate_meta_filtered.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t)
_GST.gst_structure_to_string.restype, _GST.gst_structure_to_string.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
_GLIB.g_free.argtypes = (ctypes.c_void_p,)
_GLIB.g_quark_to_string.restype, _GLIB.g_quark_to_string.argtypes = ctypes.c_char_p, (ctypes.c_uint32,)


class _List(ctypes.Structure):
    pass


_List._fields_ = (("data", ctypes.c_void_p), ("next", ctypes.POINTER(_List)), ("previous", ctypes.c_void_p))


class _Region(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_int),
        ("info", ctypes.c_void_p),
        ("roi_type", ctypes.c_uint32),
        ("ids", ctypes.c_int * 2),
        ("place", ctypes.c_uint * 4),
        ("params", ctypes.POINTER(_List)),
    )


def structures(region: _Region) -> list[dict[str, Any]]:
    """The parameters of a region, through their text, which GStreamer reads back."""
    found, item = [], region.params
    while item:
        text = _GST.gst_structure_to_string(item.contents.data)
        structure = Gst.Structure.new_from_string(ctypes.string_at(text).decode())
        _GLIB.g_free(text)
        names = [structure.nth_field_name(place) for place in range(structure.n_fields())]
        found.append({"": structure.get_name(), **{name: structure.get_value(name) for name in names}})
        item = item.contents.next
    return found


def regions(buffer: Any) -> list[dict[str, Any]]:
    state, found = ctypes.c_void_p(), []
    kind = GObject.GType.from_name("GstVideoRegionOfInterestMetaAPI")
    while address := _GST.gst_buffer_iterate_meta_filtered(hash(buffer), ctypes.byref(state), hash(kind)):
        region = _Region.from_address(address)
        label = _GLIB.g_quark_to_string(region.roi_type).decode()
        found.append({"label": label, "place": list(region.place), "structures": structures(region)})
    return found


class DumpRegions(GstBase.BaseTransform):
    __gtype_name__ = "SeqparDumpRegions"
    __gstmetadata__ = ("Regions to a file", "Filter", "Writes regions", "tests")
    __gsttemplates__ = (
        Gst.PadTemplate.new("sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS, _CAPS),
        Gst.PadTemplate.new("src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS, _CAPS),
    )
    __gproperties__ = {  # noqa: RUF012
        "file": (str, "File", "JSON Lines to write", None, _FLAGS),
        "pixels": (str, "Pixels", "File for the bytes of the frames", None, _FLAGS),
    }

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        GstVideo.VideoInfo()  # registers the type of the metadata

    def do_set_property(self, spec: Any, value: Any) -> None:
        self.values[spec.name] = value

    def do_get_property(self, spec: Any) -> Any:
        return self.values.get(spec.name)

    def do_transform_ip(self, buffer: Any) -> Any:
        values = {"seconds": buffer.pts / Gst.SECOND, "regions": regions(buffer)}
        with open(self.values["file"], "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        if "pixels" in self.values:
            with open(self.values["pixels"], "ab") as file:
                file.write(buffer.extract_dup(0, buffer.get_size()))
        return Gst.FlowReturn.OK


GObject.type_register(DumpRegions)
__gstelementfactory__ = ("dumpregions", Gst.Rank.NONE, DumpRegions)
