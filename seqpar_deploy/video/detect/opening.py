"""Opens a detector by name or file."""

from __future__ import annotations

from pathlib import Path

from seqpar_deploy.backends import BackendName
from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.external import ExternalDetections
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.detect.onnx import OnnxDetector, OnnxOptions
from seqpar_deploy.video.types import Detector

MOTION = "motion"


def open_detector(
    wanted: str = MOTION, *, backend: BackendName = "auto", options: OnnxOptions = OnnxOptions()
) -> Detector:
    """Open a detector.

    Args:
        wanted: "motion" (built in, for fixed cameras), an .onnx file, a .jsonl file of boxes, or "-" for boxes from
            standard input. Default: "motion".
        backend: Runtime of an ONNX detector, as of a Recognizer. Default: "auto".
        options: Options of an ONNX detector. Default: `OnnxOptions()`.

    Returns:
        The detector. The caller closes it.

    Raises:
        DetectorError: The name is invalid, or the file cannot be used.
        BackendUnavailableError: A required library is not installed.

    Example:
        detector = open_detector("yolo11n.onnx", backend="openvino")
    """
    if wanted.lower().endswith(".onnx"):
        return OnnxDetector(Path(wanted), backend, options)
    if wanted == MOTION or wanted == "-" or wanted.lower().endswith(".jsonl"):
        _check_unused(wanted, options)
        return MotionDetector() if wanted == MOTION else ExternalDetections(wanted)
    raise DetectorError(f"detector must be motion, an .onnx file, a .jsonl file of boxes, or -, got {wanted!r}")


def _check_unused(wanted: str, options: OnnxOptions) -> None:
    """Refuse options that this detector does not have."""
    usual = OnnxOptions()
    for option, value, default in (
        ("--detector-layout", options.layout, usual.layout),
        ("--person-class", options.person_class, usual.person_class),
        ("--detector-threshold", options.score, usual.score),
        ("--detector-scaling", options.scaling, usual.scaling),
    ):
        if value != default:
            raise DetectorError(f"detector must be an .onnx file for {option} {value}, got {wanted}; omit {option}")
