"""Opens the recognizer of `seqpar video`, and the monitor of its probabilities."""

from __future__ import annotations

from seqpar_deploy.calibration.drift import DriftMonitor
from seqpar_deploy.cli import recognizers
from seqpar_deploy.cli.video.request import VideoRequest
from seqpar_deploy.errors import VideoError
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.monitor import Monitor
from seqpar_deploy.video.sinks.metrics import Health, Metrics


def open_recognizer(
    request: VideoRequest, *, live: bool = False, metrics: Metrics | None = None, health: Health | None = None
) -> AnyRecognizer:
    open_local = None if request.bundle is None else lambda: _open_bundle(request)
    return request.open(open_local, without=request.without, live=live, metrics=metrics, health=health)


def _open_bundle(request: VideoRequest) -> Recognizer:
    """Open the bundle. Raises VideoError if --monitor needs a calibration that it does not have."""
    assert request.bundle is not None
    recognizer = Recognizer.from_bundle(
        request.bundle, backend=request.backend, threads=request.threads, thresholds=request.thresholds
    )
    if request.monitor and recognizer.calibration is None:
        recognizer.close()
        raise VideoError(
            f"--monitor needs a calibration, got none that fits {request.bundle}; run seqpar calibrate, or omit "
            "--monitor"
        )
    return recognizer


def open_monitor(recognizer: AnyRecognizer, metrics: Metrics) -> Monitor:
    local = recognizers.local_recognizer(recognizer)
    assert local is not None  # checked by `check_options`
    assert local.calibration is not None  # checked by `_open_bundle`
    label_set = recognizer.label_set
    return Monitor(DriftMonitor(local.calibration.limited_to(label_set), label_set), metrics=metrics)
