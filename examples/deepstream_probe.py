"""Recognise attributes in a DeepStream pipeline, with a pad probe. Not tried: no DeepStream was at hand.

    python examples/deepstream_probe.py street.mp4 bundles/peta --detector config_infer_primary.txt \
        --tracker /opt/nvidia/deepstream/deepstream/lib/libnvds_nvmultiobjecttracker.so

The pipeline decodes, detects and tracks on the GPU. The probe passes people and pixels to a `Session`, the class that
the GStreamer element seqparattributes uses, and adds labels to the objects. nvdsosd and nvmsgconv read them like those
of a secondary nvinfer. Needs DeepStream 6 or newer and its Python bindings (pyds), in the system's Python.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy import Recognizer
from seqpar_deploy.video.gstreamer import Region, Session, SessionOptions, Tracked

PERSON = "person"  # label of people in the detector's labels file
COMPONENT = 77  # unique_component_id of the labels; no other element may have it
WIDTH, HEIGHT = 1920, 1080  # of nvstreammux, which scales all frames and boxes to it
UNTRACKED = 2**64 - 1  # object_id without a tracker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="H.264 video in an MP4 file")
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--detector", type=Path, required=True, help="configuration file of nvinfer")
    parser.add_argument("--tracker", type=Path, required=True, help="library of nvtracker")
    options = parser.parse_args()

    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import GLib, Gst

    Gst.init(None)
    pipeline = Gst.parse_launch(
        f'filesrc location="{options.video}" ! qtdemux ! h264parse ! nvv4l2decoder ! mux.sink_0 '
        f"nvstreammux name=mux batch-size=1 width={WIDTH} height={HEIGHT} ! "
        f'nvinfer config-file-path="{options.detector}" ! nvtracker ll-lib-file="{options.tracker}" ! '
        "nvvideoconvert nvbuf-memory-type=3 ! video/x-raw(memory:NVMM),format=RGBA ! "  # pyds maps RGBA only
        "identity name=here ! fakesink"
    )
    with Recognizer.from_bundle(options.bundle) as recognizer:
        sessions: dict[int, Session] = {}

        def session_of(source: int) -> Session:
            if source not in sessions:
                sessions[source] = Session(
                    recognizer,
                    lambda event: print(event.kind, event.person.track_id, event.person.labels),
                    stream=f"source-{source}",
                    options=SessionOptions(labels=("*",)),
                )
            return sessions[source]

        def probe(_pad: Any, info: Any) -> Any:
            try:
                recognise(info.get_buffer(), session_of)
            except Exception as error:  # PyGObject would print it, and the pipeline would go on
                reason = GLib.Error.new_literal(Gst.StreamError.quark(), str(error), Gst.StreamError.FAILED)
                pipeline.post_message(Gst.Message.new_error(pipeline, reason, traceback.format_exc()))
                return Gst.PadProbeReturn.REMOVE
            return Gst.PadProbeReturn.OK

        pipeline.get_by_name("here").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, probe)
        pipeline.set_state(Gst.State.PLAYING)
        message = pipeline.get_bus().timed_pop_filtered(
            Gst.CLOCK_TIME_NONE, Gst.MessageType.EOS | Gst.MessageType.ERROR
        )
        failed = message.type == Gst.MessageType.ERROR
        try:
            for session in sessions.values() if not failed else ():  # after an error, the probe may still run
                session.finish()
        finally:
            pipeline.set_state(Gst.State.NULL)
            for session in sessions.values():
                session.close()
        if failed:
            sys.exit(message.parse_error()[0].message)


def recognise(buffer: Any, session_of: Any) -> None:
    """Process all frames of a batch, and add labels to their objects."""
    import pyds

    batch = pyds.gst_buffer_get_nvds_batch_meta(hash(buffer))
    for frame in each(batch.frame_meta_list, pyds.NvDsFrameMeta.cast):
        regions = [
            region_of(found)
            for found in each(frame.obj_meta_list, pyds.NvDsObjectMeta.cast)
            if found.obj_label == PERSON
        ]

        def picture(batch_id: int = frame.batch_id) -> Any:
            surface = pyds.get_nvds_buf_surface(hash(buffer), batch_id)  # RGBA, in the GPU's memory
            return np.array(surface[..., :3], copy=True, order="C")

        session = session_of(frame.source_id)
        for one in session.process(picture, (HEIGHT, WIDTH), frame.buf_pts / 1e9, regions) or ():
            add_labels(pyds, batch, one)


def each(item: Any, cast: Any) -> Iterator[Any]:
    """Iterate over a list of DeepStream."""
    while item is not None:
        yield cast(item.data)
        try:
            item = item.next
        except StopIteration:
            return


def region_of(found: Any) -> Region:
    """Convert an object. DeepStream counts tracks from 0."""
    place = found.rect_params
    return Region(
        left=place.left,
        top=place.top,
        width=place.width,
        height=place.height,
        label=found.obj_label,
        score=found.confidence if found.confidence >= 0 else 1.0,
        track_id=None if found.object_id == UNTRACKED else found.object_id + 1,
        key=found,
    )


def add_labels(pyds: Any, batch: Any, one: Tracked) -> None:
    """Add a label for each attribute whose state is "yes"."""
    if one.region is None or one.person is None:
        return
    classifier = pyds.nvds_acquire_classifier_meta_from_pool(batch)
    classifier.unique_component_id = COMPONENT
    for name in one.person.labels:
        label = pyds.nvds_acquire_label_info_meta_from_pool(batch)
        label.result_label = name
        label.result_prob = one.person.attributes[name].probability
        pyds.nvds_add_label_info_meta_to_classifier(classifier, label)
    pyds.nvds_add_classifier_meta_to_object(one.region.key, classifier)


if __name__ == "__main__":
    main()
