"""A frame of a camera to draw on, blurred as the pictures of a run are."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Generator

from seqpar_deploy.cli.console import stage
from seqpar_deploy.cli.video.cameras import CameraOpener
from seqpar_deploy.cli.video.config import Config
from seqpar_deploy.cli.video.request import VideoRequest
from seqpar_deploy.errors import VideoError
from seqpar_deploy.machine import usable_cores
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.cameras.settings import CameraSettings
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.finding import Finder
from seqpar_deploy.video.privacy.blur import Blur
from seqpar_deploy.video.privacy.veil import Veil
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.state import SourceOptions
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Frame, LooksAhead, Readiness

_WITHIN = 10.0  # seconds for the first frame, and for the detector to be ready
_AHEAD = 300  # frames that the detector may learn from, as in a run

_log = logging.getLogger(__name__)


def picture_of(camera: str, config: Config) -> RgbImage:
    """Return a frame of a camera. With `blur` in the file, its people are blurred.

    Raises:
        SeqparError: There is no frame within 10 s, or the detector that has to find people cannot be opened.
    """
    request = config.over(VideoRequest(sources=None)).with_secrets()
    opener = CameraOpener(request=request, threads=request.threads or usable_cores())
    spec, settings = opener.spec(camera, config.cameras[camera]), config.cameras[camera]
    options = opener.source_options(settings)
    with stage(f"a frame of {camera}"):
        if request.blur is None:
            with contextlib.closing(_frames(spec, options)) as frames:
                image = next((frame.image for frame in frames), None)
        else:
            with contextlib.closing(_detector(opener, settings)) as detector:
                image = _blurred(spec, options, detector, request.blur)
    if image is None:
        raise VideoError(
            f"{camera} must give a frame within {_WITHIN:.0f} s, got none; check its address, or draw on a --picture"
        )
    return image


def _detector(opener: CameraOpener, settings: CameraSettings) -> Detector:
    request = opener.request
    own = opener.detector(settings)
    options = request.onnx_options(opener.threads)
    return own or open_detector(request.detector, backend=request.backend, options=options)


def _frames(spec: SourceSpec, options: SourceOptions) -> Generator[Frame, None, None]:
    """Yield the frames of the first seconds."""
    with Source(spec, options=options) as source:
        late = threading.Timer(_WITHIN, source.close, kwargs={"within": 0.0})
        late.start()
        try:
            yield from source.start(1)
        finally:
            late.cancel()


def _blurred(spec: SourceSpec, options: SourceOptions, detector: Detector, blur: Blur) -> RgbImage | None:
    """Return the first frame in which the detector is ready, or else the last one, which is blurred as a whole."""
    if isinstance(detector, LooksAhead) and not spec.live:
        with contextlib.closing(_frames(spec, options)) as ahead:
            detector.look_ahead(itertools.islice(ahead, _AHEAD))
    finder, veil, image = Finder(detector, ByteTracker()), Veil(blur), None
    with contextlib.closing(_frames(spec, options)) as frames:
        for frame in frames:
            found = finder.detect(frame)
            ready = not isinstance(detector, Readiness) or detector.ready(frame.stream)
            veil.see(frame, found, ready=ready)
            image = veil.shown(frame, [])
            if ready:
                return image
    if image is not None:
        _log.warning("%s: the detector is not ready, so the whole frame is blurred; draw on a --picture", spec.name)
    return image
