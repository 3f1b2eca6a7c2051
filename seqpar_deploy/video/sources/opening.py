"""Opens a source with FFmpeg, in another way if the usual one fails: RTSP over UDP, MJPEG without its boundaries."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from seqpar_deploy.errors import VideoError
from seqpar_deploy.preprocess import MAX_PIXELS
from seqpar_deploy.video.sources.hardware import HARDWARE, accelerator
from seqpar_deploy.video.sources.playlist import is_playlist
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.state import SourceOptions

if TYPE_CHECKING:
    from types import ModuleType

    from av.container import InputContainer

_UDP_BUFFER = 2_000_000  # bytes: a key frame in 4K. The system's limit may be lower

_log = logging.getLogger(__name__)


class Opener:
    """Opens one source, as often as needed, and remembers the way that works."""

    def __init__(self, av: ModuleType, spec: SourceSpec, options: SourceOptions) -> None:
        self._av = av
        self._spec = spec
        self._wait = options
        scheme, _, rest = spec.place.partition("://") if spec.is_url else ("", "", "")
        self.scheme = scheme.lower()  # FFmpeg compares schemes exactly
        if spec.is_device:
            self._place = spec.place
        else:
            self._place = f"{self.scheme}://{rest}" if spec.is_url else f"file:{spec.place}"
        self._may_change_transport = options.rtsp_transport == "auto" and self.scheme == "rtsp"
        self._transport = "tcp" if options.rtsp_transport == "auto" else options.rtsp_transport
        self._local_playlist = not spec.is_url and is_playlist(spec.place)
        self._raw_mjpeg = self._logged = False
        self._hwaccel = options.hwaccel
        self.hardware: str | None = None  # the device of the latest connection

    @property
    def transports(self) -> str:
        """The transports of RTSP that are tried."""
        return "TCP and UDP" if self._wait.rtsp_transport == "auto" else self._transport.upper()

    def open(self) -> InputContainer:
        """Open the source. Raises FFmpegError, and VideoError if there is no answer."""
        av, wait = self._av, self._wait
        arguments: dict[str, Any] = {"options": self._options()}
        if self._spec.is_url or self._local_playlist:
            arguments["timeout"] = (wait.connect_timeout, wait.silence_timeout)
        if self._spec.is_device:
            arguments["format"] = "v4l2"
        elif self._raw_mjpeg:
            arguments["format"] = "mjpeg"
        if hasattr(av.container.InputContainer, "metadata_errors"):  # PyAV 19 reads any bytes
            arguments["metadata_errors"] = "replace"  # titles may be in GBK or Latin-1
        began = time.monotonic()
        try:
            container: InputContainer = self._open(arguments)
        except av.error.InvalidDataError:  # RTSP raises it after a timeout, too
            shorter = min(wait.connect_timeout, wait.silence_timeout)
            if self._spec.is_url and time.monotonic() - began >= shorter:
                raise VideoError(f"no answer for {shorter:g} s") from None
            raise
        return container

    def _open(self, arguments: dict[str, Any]) -> InputContainer:
        """Open with the device that decodes, or without it if it is at fault."""
        av = self._av
        self.hardware = HARDWARE.find(self._hwaccel)
        if self.hardware is not None:
            try:
                container: InputContainer = av.open(self._place, hwaccel=accelerator(self.hardware), **arguments)
                return container
            except av.error.FFmpegError as error:
                if isinstance(error, self._of_source()):
                    raise
                why = str(error.strerror or error)
        opened: InputContainer = av.open(self._place, **arguments)
        if self.hardware is not None:
            self.leave_hardware(why)
        return opened

    def _of_source(self) -> tuple[type[Exception], ...]:
        """Errors of the source, not of a device."""
        av = self._av.error
        network = (av.HTTPError, av.HTTPClientError, av.ConnectionRefusedError, av.TimeoutError, av.ExitError)
        return (*network, av.InvalidDataError, av.FileNotFoundError, av.ProtocolNotFoundError)

    def leave_hardware(self, why: str) -> None:
        """Decode this source on the CPU from now on."""
        _log.warning("%s: %s cannot decode it: %s; it is decoded on the CPU", self._spec.name, self.hardware, why)
        self._hwaccel, self.hardware = "none", None

    def worked(self) -> None:
        """Note that the present way gave a picture."""
        if self._transport == "tcp":
            self._may_change_transport = False
        elif self._may_change_transport and not self._logged:
            self._logged = True
            _log.info("%s: RTSP over TCP was refused, so it runs over UDP", self._spec.name)

    def try_another_way(self, error: Exception | None, *, worked: bool) -> bool:
        """Change the way of opening after an error or the end, and return whether it is worth an immediate retry.

        `worked` says whether the connection gave a picture.
        """
        av = self._av.error
        if self.scheme in ("http", "https") and self._spec.live:
            if self._raw_mjpeg:
                self._raw_mjpeg = worked
                return False
            self._raw_mjpeg = isinstance(error, av.InvalidDataError)
            return self._raw_mjpeg
        if worked or not self._may_change_transport:
            return False
        if self._transport == "udp":
            self._transport = "tcp"
            return False
        hopeless = (av.ConnectionRefusedError, av.HTTPUnauthorizedError, av.HTTPForbiddenError, av.HTTPNotFoundError)
        if isinstance(error, hopeless):
            return False
        self._transport = "udp"
        return True

    def _options(self) -> dict[str, str]:
        options = {"max_pixels": str(MAX_PIXELS)}
        if self._spec.live:
            options |= {"analyzeduration": "1000000", "probesize": "1000000", "merge_pmt_versions": "1"}
        if self.scheme in ("rtsp", "rtsps"):
            options["timeout"] = str(int(1e6 * self._wait.silence_timeout))
            options |= {"rtsp_transport": self._transport, "buffer_size": str(_UDP_BUFFER)}
        if self.scheme == "udp":
            options["overrun_nonfatal"] = "1"
        if self._local_playlist:  # it may name addresses, which FFmpeg refuses by default
            options["protocol_whitelist"] = "file,crypto,data,http,https,tcp,tls"
        return options
