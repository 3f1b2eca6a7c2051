"""The properties of the element, and what follows from them. Without GStreamer, so that it can be tested anywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast, get_args

from seqpar_deploy.backends import BackendName
from seqpar_deploy.errors import SeqparError, VideoError
from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.gstreamer.regions import LABELS
from seqpar_deploy.video.gstreamer.session import SessionOptions
from seqpar_deploy.video.gstreamer.shared import BundleRequest
from seqpar_deploy.video.options import SelectionOptions, VideoOptions
from seqpar_deploy.video.types import Detector

REGIONS = "regions"
# Elements that copy frames to the system's memory, by the memory they are in.
CONVERTERS = {
    "NVMM": "nvvideoconvert",
    "DMABuf": "vapostproc",
    "VAMemory": "vapostproc",
    "VASurface": "vaapipostproc",
    "GLMemory": "gldownload",
    "CUDAMemory": "cudadownload",
    "D3D11Memory": "d3d11download",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Values of the element's properties, see `PROPERTIES` in element.py."""

    bundle: str | None
    backend: str = "auto"
    thresholds: str | None = None
    threads: int = 0
    detector: str = REGIONS
    detector_threshold: float = -1.0
    region_labels: str = ",".join(LABELS)
    use_track_ids: bool = True
    crops_per_second: float = SelectionOptions.max_crops_per_second
    max_latency: float = SelectionOptions.max_latency
    frame_budget: int = 40
    sync: bool = False

    def request(self) -> BundleRequest:
        """Return the bundle to open. Raises SeqparError."""
        if not self.bundle:
            raise SeqparError("bundle must be the folder of a bundle, got none; add bundle=FOLDER to the element")
        if self.backend not in get_args(BackendName):
            raise SeqparError(f"backend must be one of {', '.join(get_args(BackendName))}, got {self.backend}")
        return BundleRequest(
            bundle=Path(self.bundle),
            backend=cast(BackendName, self.backend),
            thresholds=Path(self.thresholds) if self.thresholds else None,
            threads=self.threads or None,
        )

    def session(self) -> SessionOptions:
        """Return the options of the session. Raises VideoError."""
        labels = tuple(label.strip() for label in self.region_labels.split(",") if label.strip())
        if not labels:
            usual = ",".join(LABELS)
            raise VideoError(f"region-labels must be one or more labels, or *, got none; the default is {usual}")
        selection = SelectionOptions(max_crops_per_second=self.crops_per_second, max_latency=self.max_latency)
        return SessionOptions(
            video=VideoOptions(selection=selection),
            sync=self.sync,
            budget=self.frame_budget / 1000,
            use_track_ids=self.use_track_ids,
            labels=labels,
        )

    def open_detector(self) -> Detector | None:
        """Open the detector, or return None for given regions. The caller closes it. Raises SeqparError."""
        given = self.detector_threshold >= 0
        if self.detector in ("", REGIONS):
            if given:
                raise VideoError("detector-threshold needs detector with an .onnx file; add it, or omit the threshold")
            return None
        if given and not self.detector.lower().endswith(".onnx"):
            raise VideoError(
                f"detector-threshold needs detector with an .onnx file, got {self.detector}; omit the threshold"
            )
        score = self.detector_threshold if given else OnnxOptions().score
        backend = cast(BackendName, self.backend)
        return open_detector(
            self.detector, backend=backend, options=OnnxOptions(score=score, threads=self.threads or None)
        )


def refused_memory(features: str) -> str | None:
    """Return the line for frames that are not in the system's memory, or None if they are.

    Args:
        features: The features of the caps, for example "memory:NVMM".
    """
    for feature in features.split(","):
        kind, _, name = feature.strip().partition(":")
        if kind == "memory" and name != "SystemMemory":
            converter = CONVERTERS.get(name, "a converter to system memory")
            return (
                f"frames must be in the system's memory, got memory:{name}; put {converter} ! video/x-raw before "
                "seqparattributes"
            )
    return None
