"""A detector from what was asked for on the command line."""

from __future__ import annotations

from pathlib import Path

from seqpar_deploy.backends import BackendName
from seqpar_deploy.backends.onnxruntime import available_devices
from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.external import OutsideDetections
from seqpar_deploy.video.detect.graph import Backend
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
        return OnnxDetector(Path(wanted), _runtime(backend), options)
    raise DetectorError(f"the detector is {wanted!r}; wanted motion, a .onnx file, a .jsonl file of boxes, or -")


def _runtime(backend: BackendName) -> Backend:
    """TensorRT's engines are built for bundles alone; a detector gets ONNX Runtime's CUDA, if there."""
    if backend == "auto" or backend == "openvino" or backend == "onnxruntime":
        return backend
    if backend == "onnxruntime-cuda" or "cuda" in available_devices():
        return "cuda"
    return "auto"
