"""Hardware decoding by PyAV: which device works, tried once per process, in a process of its own.

A broken driver may hang or crash the process that opens it. So a child opens the device first, decodes a small clip
with it, and compares the pictures with those of the CPU. If anything fails, the CPU decodes, and one line says why.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from typing import Any, Literal

Hwaccel = Literal["none", "auto", "cuda", "vaapi"]

_KINDS = ("cuda", "vaapi")  # that `auto` tries, in this order
_WITHIN = 15.0  # seconds for the child; the first use of a CUDA driver takes some
_CHILD = """
import io, sys
import av
from av.codec.hwaccel import HWAccel

kind = sys.argv[1]
try:
    HWAccel(kind).create(av.Codec("h264", "r"))
except NotImplementedError:
    sys.exit(f"the FFmpeg in PyAV {av.__version__} has no H.264 decoder for it")
except Exception as error:
    sys.exit(f"it cannot be opened: {getattr(error, 'strerror', None) or error}")
clip = io.BytesIO()
try:
    with av.open(clip, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 256, "yuv420p"
        for number in range(8):
            frame = av.VideoFrame(320, 256, "yuv420p")
            for plane in frame.planes:
                data = bytes((place * 7 + number * 31) % 251 for place in range(plane.buffer_size))
                plane.update(data)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
except Exception:
    sys.exit(0)  # this FFmpeg cannot encode a clip

def pictures(**options):
    clip.seek(0)
    with av.open(clip, **options) as read:
        return [frame.reformat(format="yuv420p").to_ndarray().tobytes() for frame in read.decode(video=0)]

try:
    same = pictures(hwaccel=HWAccel(kind, allow_software_fallback=False)) == pictures()
except Exception as error:
    sys.exit(f"it cannot decode: {getattr(error, 'strerror', None) or error}")
sys.exit(0 if same else "its pictures differ from those of the CPU")
"""

_log = logging.getLogger(__name__)


class Hardware:
    """Finds a device on first use, and remembers it. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, str | None] = {}

    def find(self, wanted: Hwaccel) -> str | None:
        """Return the kind of device to decode on, or None for the CPU. The first call logs the result."""
        if wanted == "none":
            return None
        with self._lock:
            if wanted not in self._found:
                self._found[wanted] = self._try(wanted)
            return self._found[wanted]

    def _try(self, wanted: Hwaccel) -> str | None:
        problems = []
        for kind in _KINDS if wanted == "auto" else (wanted,):
            problem = probe(kind)
            if problem is None:
                _log.info("video is decoded on %s, and on the CPU if a codec is not supported there", kind)
                return kind
            problems.append(f"{kind}: {problem}")
        level = logging.INFO if wanted == "auto" else logging.WARNING
        _log.log(level, "video is decoded on the CPU: %s", "; ".join(problems))
        return None


def probe(kind: str) -> str | None:
    """Return why a device cannot decode, or None if it can."""
    if not sys.executable:
        return "it cannot be tried, since this process does not know its Python"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, kind],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer for {_WITHIN:g} s"
    except OSError as error:
        return f"it cannot be tried: {error.strerror}"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"its driver crashed (signal {-done.returncode})"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {done.returncode}"


def accelerator(kind: str) -> Any:
    """Return what `av.open` takes as `hwaccel`."""
    from av.codec.hwaccel import HWAccel

    return HWAccel(device_type=kind, allow_software_fallback=True)


HARDWARE = Hardware()  # of this process: devices do not come and go
