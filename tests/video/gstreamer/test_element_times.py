"""Times, track IDs and places of the element in pipelines that play otherwise than from start to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from video.gstreamer import gst
from video.gstreamer.test_element import DECODED, SNOW

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("element_runs")]

SQUARE = "appsrc name=source caps=video/x-raw,format=RGB,width=128,height=128,framerate=5/1"


@pytest.fixture
def element(bundle_dir: Path) -> str:
    return f"seqparattributes name=attributes bundle={bundle_dir} backend=onnxruntime threads=1 sync=true"


def ended(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["event"] for line in said if line["kind"] == "event" and line["event"]["event"] == "ended"]


@pytest.mark.parametrize("form", ["TIME", "BYTES"])
def test_time_stamps_count_whatever_the_format_of_the_segment(form: str, element: str, registry: Path) -> None:
    said = gst.run(registry, "pushed", form, f"{SQUARE} ! giveregions ! {element} ! fakesink sync=false")
    assert [(one["first"]["timestamp"], one["last"]["timestamp"]) for one in ended(said)] == [(0.2, 1.8), (62.2, 63.8)]


def test_a_faster_playback_has_the_same_times(element: str, registry: Path) -> None:
    line = f"{DECODED} ! giveregions ! {element} ! fakesink sync=false"
    usual, fast = (ended(gst.run(registry, "fast", rate, line)) for rate in (1.0, 4.0))
    assert len(usual) > 0
    assert [(one["track_id"], one["last"]) for one in usual] == [(one["track_id"], one["last"]) for one in fast]


def test_numbers_continue_after_a_restart(element: str, registry: Path) -> None:
    source = f"{SNOW.format(10)},framerate=10/1"
    said = gst.run(registry, "twice", f"{source} ! giveregions ! {element} stream=gate ! fakesink")
    tracks = [one["track_id"] for one in ended(said)]
    assert len(tracks) == len(set(tracks)) == 2


def test_who_crops_does_so_before_the_element(element: str, registry: Path) -> None:
    source = "videotestsrc num-buffers=1 pattern=smpte ! video/x-raw,format=RGB,width=320,height=240"
    parts = f"{element} detector=motion ! fakesink name=end"
    said = gst.run(registry, "offered", f"{source} ! videocrop left=200 ! {parts}")
    (first,) = (line["first"] for line in said if line["kind"] == "picture")
    assert first[0] > 150, "the red bar, and not the grey one on the left"
    assert first[1] < 100


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (f"{SNOW.format(3)},pixel-aspect-ratio=2/1", "videoscale"),
        (f"{SNOW.format(3)} ! taginject tags=image-orientation=rotate-90", "videoflip"),
        (f"{SNOW.format(3)}", ""),
    ],
)
def test_frames_that_are_not_as_they_are_shown_are_told(source: str, word: str, element: str, registry: Path) -> None:
    said = gst.run(registry, "run", f"{source} ! giveregions ! {element} ! fakesink")
    warnings = [line["text"] for line in said if line["kind"] == "warning"]
    assert said[-1]["kind"] == "end"
    assert len(warnings) == bool(word)
    assert all(word in line for line in warnings)
