"""An RTSP camera of GStreamer's RTSP server, from Debian's packages: H.264 from elementary streams, over and over.

    /usr/bin/python3 tests/video/gst_rtsp_server.py          fails where something is missing; what it needs:
    apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad

rtsp://127.0.0.1:PORT/camera plays the clips in turn, from the first for whoever comes; `clips.recode` makes them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

if __name__ != "__main__":
    from video.stream_server import StreamServer
else:
    StreamServer = object  # the system's Python, which has gi and none of ours, needs none

_PYTHON = "/usr/bin/python3"
_DELIMITER = b"\0\0\0\1\t"  # before each picture of a clip
_CAPS = "video/x-h264,stream-format=byte-stream,alignment=au"


def is_there() -> bool:
    """Whether this machine has the server."""
    if not Path(_PYTHON).exists():
        return False
    return subprocess.run([_PYTHON, __file__], capture_output=True, check=False).returncode == 0


class GstRtspServer(StreamServer):
    """Starts, kills and restarts the camera, always on the same port. The clips are of one rate."""

    python, script = _PYTHON, __file__

    def __init__(self, *clips: Path, rate: int = 10) -> None:
        super().__init__()
        self._clips, self._rate = clips, rate

    def url(self, path: str = "camera", **_query: object) -> str:
        return f"rtsp://127.0.0.1:{self._port}/{path}"

    def _arguments(self) -> list[str]:
        return [str(self._port), str(self._rate), *map(str, self._clips)]


def _serve(port: str = "", rate: str = "1", *clips: str) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    if missing := [name for name in ("appsrc", "h264parse", "rtph264pay") if Gst.ElementFactory.find(name) is None]:
        raise SystemExit(f"GStreamer has no {' '.join(missing)}")
    if not port:
        return
    pictures = [_DELIMITER + part for clip in clips for part in Path(clip).read_bytes().split(_DELIMITER)[1:]]

    def play(_factory: object, media: GstRtspServer.RTSPMedia) -> None:
        sent = 0

        def feed(source: Gst.Element, _bytes: int) -> None:
            nonlocal sent
            buffer = Gst.Buffer.new_wrapped(pictures[sent % len(pictures)])
            buffer.pts = buffer.dts = sent * Gst.SECOND // int(rate)
            sent += 1
            source.emit("push-buffer", buffer)

        media.get_element().get_by_name("clips").connect("need-data", feed)

    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(
        f'( appsrc name=clips format=time caps="{_CAPS}" ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1 )'
    )
    factory.connect("media-configure", play)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.get_mount_points().add_factory("/camera", factory)
    if not server.attach(None):
        raise SystemExit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
