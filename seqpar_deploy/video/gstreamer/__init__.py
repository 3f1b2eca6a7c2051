"""The GStreamer element `seqparattributes`, and the parts of it that need no GStreamer.

`session.py` tracks and recognises the frames of one stream. `element.py` is the element around it, and imports `gi`,
GStreamer's Python bindings. Nothing else here does. docs/how-to/use-in-gstreamer.md describes the use.
"""

from seqpar_deploy.video.gstreamer.regions import Region
from seqpar_deploy.video.gstreamer.session import Session, SessionOptions, SessionStats, Tracked

__all__ = ["Region", "Session", "SessionOptions", "SessionStats", "Tracked"]
