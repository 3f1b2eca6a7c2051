"""Person detectors that were exported to ONNX."""

from __future__ import annotations

import ast
import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends import BackendName, Session, open_session
from seqpar_deploy.backends.sessions import Tensor
from seqpar_deploy.errors import BackendError, BackendUnavailableError, DetectorError
from seqpar_deploy.video.detect.layouts import Layout, class_names, recognize
from seqpar_deploy.video.detect.opencv import import_cv2
from seqpar_deploy.video.detect.picture import Fit, FloatArray, PictureInput, Scaling, place, to_tensor
from seqpar_deploy.video.types import Box, Frame

USUAL_SIDE = 640  # pixels, for graphs that accept any size

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """Options of an ONNX detector.

    Attributes:
        score: Minimum score of a box, 0 to 1. Default: 0.25.
        overlap: Intersection over union, 0 to 1, above which the lower-scoring of two boxes is dropped. Unused if the
            graph contains NMS. Default: 0.6.
        person_class: Index of the class of people. Default: from the graph.
        fit: Method to fit a frame to the input, "letterbox" or "stretch". Default: from the graph's layout.
        scaling: Scaling of pixel values: "unit" (0 to 1) or "imagenet" (ImageNet's mean and standard deviation).
            Default: from the graph's layout.
        threads: CPU threads per inference. Default: the runtime's default.
    """

    score: float = 0.25
    overlap: float = 0.6
    person_class: int | None = None
    fit: Fit | None = None
    scaling: Scaling | None = None
    threads: int | None = None


class OnnxDetector:
    """A `Detector` from an ONNX file. It recognises the meaning of inputs and outputs (`layouts.py` has the list).

    Args:
        path: The ONNX file.
        backend: Runtime, as of a Recognizer. "auto" uses the first runtime on the CPU that opens the file. TensorRT
            runs engines of bundles only, so a TensorRT backend uses another runtime on the NVIDIA GPU if one is
            installed. Default: "auto".
        options: Options. Default: `OnnxOptions()`.

    Attributes:
        layout: The recognised layout.

    Raises:
        DetectorError: The file is not a detector of a known layout.
        BackendUnavailableError: The runtime or OpenCV is not installed.

    Example:
        detector = OnnxDetector(Path("yolo11n.onnx"), options=OnnxOptions(score=0.4))
        for event in watch("street.mp4", recognizer, detector=detector):
            print(event.person.labels)
    """

    def __init__(self, path: Path, backend: BackendName = "auto", options: OnnxOptions = OnnxOptions()) -> None:
        self._options = options
        self._cv2 = import_cv2()
        graph = _open(path, backend, options.threads)
        try:
            self._picture = _picture_input(graph)
            self._others = {
                tensor.name: _other_input(tensor, self._picture)
                for tensor in graph.inputs
                if tensor.name != self._picture.name
            }
            self.layout = self._recognize(graph)
        except DetectorError as error:
            raise DetectorError(f"the detector {path} cannot be used: {error}") from None
        self._graph: Session | None = graph
        self._fit: Fit = options.fit or self.layout.fit
        self._scaling: Scaling = options.scaling or self.layout.scaling

    def detect(self, frame: Frame) -> list[Box]:
        """Detect people.

        Args:
            frame: The frame.

        Returns:
            A box for each person, clipped to the frame.

        Raises:
            DetectorError: The detector is closed.
        """
        if self._graph is None:
            raise DetectorError("detect must be called before close, got a closed detector; open it again")
        picture, placement = place(frame.image, self._picture, self._fit)
        tensor = to_tensor(picture, self._picture, self._scaling)
        edges, scores = self.layout.decode(self._graph.run({self._picture.name: tensor, **self._others}))
        sure = scores >= self._options.score
        edges, scores = placement.to_frame(edges[sure]), scores[sure]
        if self.layout.suppress:
            edges, scores = self._suppress(edges, scores)
        return _boxes(edges, scores, frame)

    def close(self) -> None:
        """Release the runtime's session. Safe to call twice."""
        self._graph = None

    def _recognize(self, graph: Session) -> Layout:
        blank = np.zeros(self._picture.shape, dtype=self._picture.dtype)
        try:
            outputs = graph.run({self._picture.name: blank, **self._others})
        except Exception as error:  # each runtime has its own exceptions
            _log.debug("the detector cannot run on a blank picture", exc_info=error)
            raise DetectorError(
                "it must run on a blank picture, got an error of the runtime; export it again, or try another backend"
            ) from None
        return recognize(
            outputs,
            self._picture,
            names=class_names(graph.metadata),
            person_class=self._options.person_class,
            inputs={tensor.name for tensor in graph.inputs},
        )

    def _suppress(self, edges: FloatArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
        sizes = np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2]], axis=1)
        kept = self._cv2.dnn.NMSBoxes(sizes, scores, self._options.score, self._options.overlap)
        rows = np.asarray(kept, dtype=np.int64).reshape(-1)
        return edges[rows], scores[rows]


def _open(path: Path, backend: BackendName, threads: int | None) -> Session:
    if not path.is_file():
        raise DetectorError(f"detector {path} must be an ONNX file, got no file; check the path")
    try:
        return open_session(path, backend, threads=threads)
    except BackendUnavailableError:
        raise
    except BackendError as error:
        raise DetectorError(str(error)) from None


def _picture_input(graph: Session) -> PictureInput:
    """Return the input for the picture: (1, 3, H, W) or (1, H, W, 3)."""
    for tensor in graph.inputs:
        if len(tensor.shape) == 4 and 3 in (tensor.shape[1], tensor.shape[3]):
            if tensor.shape[0] not in (None, 1):
                raise DetectorError(
                    f"its input {tensor.name} must be a batch of 1 or any number of pictures, got {tensor.shape[0]}; "
                    "export it for 1"
                )
            if np.dtype(tensor.dtype) not in (np.float32, np.float16, np.uint8):
                raise DetectorError(f"its input {tensor.name} must be float or uint8, got {np.dtype(tensor.dtype)}")
            first = tensor.shape[1] == 3
            height, width = tensor.shape[2:] if first else tensor.shape[1:3]
            usual = _usual_size(graph)
            return PictureInput(
                name=tensor.name,
                channels="first" if first else "last",
                height=height or usual[0],
                width=width or usual[1],
                dtype=tensor.dtype,
            )
    shapes = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in graph.inputs)
    raise DetectorError(
        f"its inputs must include a picture (1, 3, height, width) or (1, height, width, 3), got {shapes}"
    )


def _usual_size(graph: Session) -> tuple[int, int]:
    """Return height and width for a graph that accepts any size: from its metadata, or `USUAL_SIDE`."""
    try:
        height, width = ast.literal_eval(graph.metadata.get("imgsz", ""))
        return int(height), int(width)
    except (ValueError, SyntaxError, TypeError):
        return USUAL_SIDE, USUAL_SIDE


def _other_input(tensor: Tensor, picture: PictureInput) -> npt.NDArray[Any]:
    """Return the constant value of another input, such that boxes are in pixels of the picture."""
    values: Any
    if tensor.name == "orig_target_sizes":
        values = [[picture.width, picture.height]]
    elif tensor.name == "im_shape":
        values = [[picture.height, picture.width]]
    elif tensor.name == "scale_factor":
        values = [[1, 1]]
    elif tensor.name == "pixel_mask":
        sides = zip(tensor.shape[1:], (picture.height, picture.width), strict=True)
        values = np.ones([1, *(fixed or side for fixed, side in sides)])
    else:
        raise DetectorError(
            "its inputs must be a picture, and optionally orig_target_sizes, im_shape, scale_factor or pixel_mask, got "
            f"{tensor.name} {tensor.shape}"
        )
    return np.asarray(values, dtype=tensor.dtype)


def _boxes(edges: FloatArray, scores: FloatArray, frame: Frame) -> list[Box]:
    height, width = frame.image.shape[:2]
    found = []
    for (left, top, right, bottom), score in zip(edges.tolist(), scores.tolist(), strict=True):
        if not all(map(math.isfinite, (left, top, right, bottom, score))):
            continue  # an overflow of half precision
        left, top, right, bottom = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
        if right - left >= 1 and bottom - top >= 1:
            found.append(Box(left=left, top=top, right=right, bottom=bottom, score=min(1.0, score)))
    return found
