"""The least of an RTSP camera: H.264 from a transport stream file over and over, RTP in the RTSP connection or in UDP.

rtsp://127.0.0.1:PORT/clip=a.ts&speed=4&silent_after=30, as in stream_server.py
    tcp=461    answers that to a request for RTP in the RTSP connection, or another status
    tcp=close  closes the connection instead
    tcp=mute   agrees, and sends nothing
    tcp=end    agrees, and closes the connection when it should play
    udp=461    answers that to a request for RTP in UDP
"""

from __future__ import annotations

import itertools
import re
import select
import socket
import socketserver
import struct
import sys
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import av

if __name__ != "__main__":
    from video.stream_server import StreamServer
else:
    StreamServer = object  # the process that serves needs none, and has no tests on its path

_MOST = 1400  # bytes of a NAL unit in one RTP packet
_SDP = "\r\n".join(
    (
        "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=clip", "c=IN IP4 0.0.0.0", "t=0 0", "m=video 0 RTP/AVP 96",
        "a=rtpmap:96 H264/90000", "a=fmtp:96 packetization-mode=1", "a=control:track", "",
    )
)  # fmt: skip


class RtspServer(StreamServer):
    """Starts, kills and restarts the camera, always on the same port."""

    script = __file__

    def url(self, path: str = "", **query: object) -> str:
        return f"rtsp://127.0.0.1:{self._port}/{urlencode(query)}"


class _Handler(socketserver.StreamRequestHandler):
    _query: dict[str, str]
    _client: tuple[str, int] | None = None  # of UDP

    def handle(self) -> None:
        while lines := self._request():
            method, url, _ = lines[0].split()
            (number,) = (line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
            if method == "DESCRIBE":
                self._query = {key: values[0] for key, values in parse_qs(urlsplit(url).path.strip("/")).items()}
                self._reply(number, f"Content-Base: {url}/", "Content-Type: application/sdp", body=_SDP)
            elif method == "SETUP":
                (transport,) = (line.partition(":")[2].strip() for line in lines if line.startswith("Transport"))
                asked = self._query.get("tcp" if "TCP" in transport else "udp", "")
                if asked == "close":
                    return
                if asked.isdecimal():
                    self._reply(number, status=f"{asked} Refused")
                    continue
                if ports := re.search(r"client_port=(\d+)", transport):
                    self._client = (self.client_address[0], int(ports[1]))
                    transport = f"RTP/AVP;unicast;client_port={ports[1]}-{int(ports[1]) + 1};server_port=5000-5001"
                self._reply(number, f"Transport: {transport}", "Session: 1")
            elif method == "PLAY":
                self._reply(number, "Session: 1")
                if self._query.get("tcp") == "mute" and self._client is None:
                    time.sleep(3600)
                if self._query.get("tcp") == "end" and self._client is None:
                    return
                self._play()
                return
            else:
                self._reply(number, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")

    def _request(self) -> list[str]:
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        return lines

    def _reply(self, number: str, *headers: str, body: str = "", status: str = "200 OK") -> None:
        lines = (f"RTSP/1.0 {status}", f"CSeq: {number}", f"Content-Length: {len(body)}", *headers, "", body)
        self.wfile.write("\r\n".join(lines).encode())

    def _play(self) -> None:
        speed, started, sequence = float(self._query.get("speed", 1)), time.monotonic(), 0
        for picture, content in enumerate(_pictures(self._query["clip"])):
            if picture == int(self._query.get("silent_after", -1)):
                time.sleep(3600)
            time.sleep(max(0.0, started + picture / 10 / speed - time.monotonic()))
            payloads = list(_payloads(content))
            for place, payload in enumerate(payloads):
                marker = 0x80 if place == len(payloads) - 1 else 0
                header = struct.pack(">BBHII", 0x80, 96 | marker, sequence % 65536, (picture * 9000) % 2**32, 1)
                if not self._send(header + payload):
                    return
                sequence += 1

    def _send(self, packet: bytes) -> bool:
        """Send an RTP packet, and return whether the client is still there."""
        if self._client is None:
            self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
            return True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(packet, self._client)
        gone, _, _ = select.select([self.connection], [], [], 0)
        return not gone  # the client says nothing while it plays


def _pictures(clip: str) -> Iterator[bytes]:
    for _ in itertools.count():
        with av.open(clip) as recorded:
            yield from (bytes(packet) for packet in recorded.demux(video=0) if packet.size)


def _payloads(picture: bytes) -> Iterator[bytes]:
    """RTP payloads of a picture's NAL units, long ones in fragments (RFC 6184)."""
    for unit in re.split(rb"\x00*\x00\x00\x01", picture)[1:]:
        if len(unit) <= _MOST:
            yield unit
            continue
        kind, rest = unit[0], unit[1:]
        for start in range(0, len(rest), _MOST):
            first, last = (start == 0) << 7, (start + _MOST >= len(rest)) << 6
            yield bytes([kind & 0xE0 | 28, first | last | kind & 0x1F]) + rest[start : start + _MOST]


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """A client that goes away is no news."""


if __name__ == "__main__":
    server = _Server(("127.0.0.1", int(sys.argv[1])), _Handler)
    print("ready", flush=True)
    server.serve_forever()
