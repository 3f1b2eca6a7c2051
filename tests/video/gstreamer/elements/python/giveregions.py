"""`giveregions`: marks people as an upstream detector does, from a JSON file with a list of boxes for each frame.

A box is left, top, right, bottom, score, and a track ID or 0. Without a file, one person walks to the right.
"""

from __future__ import annotations

import json
from typing import Any

import gi

gi.require_version("GstBase", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GObject, Gst, GstBase, GstVideo  # noqa: E402

_CAPS = Gst.Caps.from_string("video/x-raw")
_FLAGS = GObject.ParamFlags.READWRITE


class GiveRegions(GstBase.BaseTransform):
    __gtype_name__ = "SeqparGiveRegions"
    __gstmetadata__ = ("Regions from a file", "Filter", "Marks people", "tests")
    __gsttemplates__ = (
        Gst.PadTemplate.new("sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS, _CAPS),
        Gst.PadTemplate.new("src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS, _CAPS),
    )
    __gproperties__ = {"file": (str, "File", "JSON file of boxes", None, _FLAGS)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.file, self.frames, self.number = None, None, 0
        self.set_in_place(True)

    def do_set_property(self, spec: Any, value: Any) -> None:
        self.file = value

    def do_get_property(self, spec: Any) -> Any:
        return self.file

    def do_start(self) -> bool:
        self.number = 0
        if self.file is not None:
            with open(self.file, encoding="utf-8") as file:
                self.frames = json.load(file)
        return True

    def do_transform_ip(self, buffer: Any) -> Any:
        number, self.number = self.number, self.number + 1
        boxes = (
            [[10 + number % 100, 10, 50 + number % 100, 110, 0.9, 0]] if self.frames is None else self.frames[number]
        )
        for left, top, right, bottom, score, track_id in boxes:
            meta = GstVideo.buffer_add_video_region_of_interest_meta(
                buffer, "person", left, top, right - left, bottom - top
            )
            found = Gst.Structure.new_empty("detection")
            found.set_value("confidence", float(score))
            meta.add_param(found)
            if track_id:
                one = Gst.Structure.new_empty("object_id")
                one.set_value("id", int(track_id))
                meta.add_param(one)
        return Gst.FlowReturn.OK


GObject.type_register(GiveRegions)
__gstelementfactory__ = ("giveregions", Gst.Rank.NONE, GiveRegions)
