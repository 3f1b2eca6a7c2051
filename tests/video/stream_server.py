"""MPEG-TS over HTTP from a process of its own, which can be killed; every other misfortune is asked for in the URL.

/stream.ts?clips=a.ts,b.ts     the clips in turn, over and over, as one stream
    speed=4          four times as fast as real time; 0: as fast as it is taken
    damage=0.01      the share of transport packets (188 bytes) with random bytes in them
    silent_after=30  says nothing more after 30 pictures, and keeps the connection
    end_after=30     closes the connection after 30 pictures
    chunked=1        in chunks, so that the end is an end and not a loss
    origin=90        the first time stamp in seconds
    late=0.5         sends nothing for so many seconds at first
/camera.mjpg?clips=a.ts&style=usual   the clip's pictures as JPEG in parts; the styles are in _parts
/file.flv?file=a.flv           a file's content
/silence.ts                    accepts, and says nothing at all
/page.ts                       a web page
"""

from __future__ import annotations

import http.server
import io
import itertools
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import av

TS_PACKET = 188


class StreamServer:
    """Starts, kills and restarts the server, always on the same port."""

    python, script = sys.executable, __file__

    def __init__(self) -> None:
        self._starts = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None

    def url(self, path: str = "stream.ts", **query: object) -> str:
        if clips := query.get("clips"):
            query["clips"] = ",".join(str(clip) for clip in clips)  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{self._port}/{path}?{urlencode(query)}"

    def start(self) -> None:
        self._starts += 1
        command = [self.python, self.script, *self._arguments()]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def _arguments(self) -> list[str]:
        return [str(self._port), str(self._starts)]

    def freeze(self) -> None:
        """Connections are taken, by the system, and nothing is said on any."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def __enter__(self) -> StreamServer:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if url.path not in ("/stream.ts", "/camera.mjpg", "/file.flv", "/silence.ts", "/page.ts"):
            self.send_error(404)
            return
        self.close_connection = True
        if url.path == "/silence.ts":
            time.sleep(3600)
        self.send_response(200)
        if url.path == "/page.ts":
            page = b"<!DOCTYPE html><title>Camera</title>" * 100
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        if url.path == "/camera.mjpg":
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        if query.get("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if url.path == "/file.flv":
            self.wfile.write(Path(query["file"]).read_bytes())
            return
        self._stream(query, _parts(query) if url.path == "/camera.mjpg" else _pieces(query))

    def log_message(self, *_arguments: object) -> None:
        """Nothing: tests read what the client says."""

    def _stream(self, query: dict[str, str], pieces: Iterator[bytes]) -> None:
        rng, damage = random.Random(sys.argv[2]), float(query.get("damage", 0))  # other damage after each start
        for sent, piece in enumerate(pieces):
            if sent == int(query.get("end_after", -1)):
                if query.get("chunked"):
                    self.wfile.write(b"0\r\n\r\n")
                return
            if sent == int(query.get("silent_after", -1)):
                time.sleep(3600)
            piece = _damaged(piece, damage, rng)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if query.get("chunked") and piece else piece)


def _parts(query: dict[str, str]) -> Iterator[bytes]:
    """The pictures of a clip over and over, as parts of a multipart reply with a camera's mistake."""
    style, speed = query["style"], float(query.get("speed", 1))
    with av.open(query["clips"]) as clip:
        pictures = []
        for picture in clip.decode(video=0):
            picture.to_image().save(file := io.BytesIO(), "jpeg")
            pictures.append(file.getvalue())
    for number, picture in enumerate(itertools.cycle(pictures)):
        time.sleep(0.1 / speed)
        length = len(picture) + {"long_length": 500, "short_length": -200}.get(style, 0)
        lines = {
            "no_dashes": ["frame", "Content-Type: image/jpeg", f"Content-Length: {length}"],
            "other_boundary": ["--other", "Content-Type: image/jpeg", f"Content-Length: {length}"],
            "no_length": ["--frame", "Content-Type: image/jpeg"],
            "image_jpg": ["--frame", "Content-Type: image/jpg", f"Content-Length: {length}"],
            "no_type": ["--frame", f"Content-Length: {length}"],
            "no_headers": ["--frame"],
            "no_boundaries": [],
        }.get(style, ["--frame", "Content-Type: image/jpeg", f"Content-Length: {length}"])
        if number == 0:
            lines = {"no_first_boundary": lines[1:], "picture_first": []}.get(style, lines)
        end = "\n" if style == "line_feeds" else "\r\n"
        yield "".join(line + end for line in [*lines, ""] * bool(lines)).encode() + picture + end.encode()


def _pieces(query: dict[str, str]):
    """Transport stream, a picture at a time, each when it is due. Stamps go on from clip to clip."""
    time.sleep(float(query.get("late", 0)))
    speed, begins = float(query.get("speed", 1)), float(query.get("origin", 0))
    started, origin = time.monotonic(), begins
    for turn, clip in enumerate(itertools.cycle(query["clips"].split(","))):
        ends = begins
        for seconds, length, piece in _transport(clip, turn, begins):
            if speed:
                time.sleep(max(0.0, started + (seconds - origin) / speed - time.monotonic()))
            yield piece
            ends = max(ends, seconds + length)
        begins = ends


def _transport(clip: str, turn: int, begins: float):
    """(seconds, length, bytes) of each packet of a clip, as a transport stream that continues another."""
    out = io.BytesIO()
    options = {
        "flush_packets": "1",
        "mpegts_flags": "initial_discontinuity+resend_headers",
        "tables_version": str(turn % 32),  # as it must be when what is in the stream changes
    }
    with av.open(clip) as recorded, av.open(out, "w", format="mpegts", options=options) as muxer:
        streams = {stream.index: muxer.add_stream_from_template(stream) for stream in recorded.streams}
        base: float | None = None
        for packet in recorded.demux():
            if packet.dts is None:
                continue
            base = float(packet.dts * packet.time_base) if base is None else base
            shift = round((begins - base) / packet.time_base)
            packet.dts += shift
            packet.pts += shift
            seconds, length = float(packet.dts * packet.time_base), float((packet.duration or 0) * packet.time_base)
            packet.stream = streams[packet.stream.index]
            muxer.mux(packet)
            yield seconds, length, out.getvalue()
            out.seek(0)
            out.truncate()


def _damaged(piece: bytes, share: float, rng: random.Random) -> bytes:
    damaged = bytearray(piece)
    for start in range(0, len(damaged) if share else 0, TS_PACKET):
        if rng.random() < share:
            for _ in range(8):
                damaged[start + rng.randrange(4, TS_PACKET)] = rng.randrange(256)
    return bytes(damaged)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """A client that goes away is no news."""


if __name__ == "__main__":
    server = _Server(("127.0.0.1", int(sys.argv[1])), _Handler)
    print("ready", flush=True)
    server.serve_forever()
