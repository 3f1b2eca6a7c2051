"""A detector from what was asked for on the command line."""

from __future__ import annotations

from pathlib import Path

from seqpar_deploy.backends import BackendName
from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.external import OutsideDetections
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.detect.onnx import OnnxDetector, OnnxOptions
from seqpar_deploy.video.types import Detector

MOTION = "motion"


def open_detector(
    wanted: str = MOTION, *, backend: BackendName = "auto", options: OnnxOptions = OnnxOptions()
) -> Detector:
    """`wanted` is "motion", a `.onnx` file, a `.jsonl` file of boxes, or "-" for boxes from standard input.

    `backend`, a Recognizer's, and `options` are for ONNX. Raises DetectorError or BackendUnavailableError.
    """
    if wanted == MOTION:
        return MotionDetector()
    if wanted == "-" or wanted.endswith(".jsonl"):
        return OutsideDetections(wanted)
    if wanted.endswith(".onnx"):
        return OnnxDetector(Path(wanted), backend, options)
    raise DetectorError(f"the detector is {wanted!r}; wanted motion, a .onnx file, a .jsonl file of boxes, or -")
