"""Person detectors that were exported to ONNX."""

from __future__ import annotations

import ast
import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends import BackendName, Session, open_session
from seqpar_deploy.backends.sessions import Tensor
from seqpar_deploy.errors import BackendError, BackendUnavailableError, DetectorError
from seqpar_deploy.video.detect.class_names import read_names
from seqpar_deploy.video.detect.layout import Graph, Layout
from seqpar_deploy.video.detect.layout_evidence import LayoutChoice
from seqpar_deploy.video.detect.layouts import LAYOUTS, possible_layouts
from seqpar_deploy.video.detect.opencv import import_cv2
from seqpar_deploy.video.detect.picture import Fit, FloatArray, PictureInput, Scaling, place, to_tensor
from seqpar_deploy.video.detect.sanity import Sanity
from seqpar_deploy.video.types import Box, Frame

USUAL_SIDE = 640  # pixels, for graphs that accept any size
SIDES = (32, 8192)  # pixels that metadata may ask for

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """Options of an ONNX detector.

    Attributes:
        score: Minimum score of a box, 0 to 1. Default: 0.25.
        overlap: Intersection over union, 0 to 1, above which the lower-scoring of two boxes is dropped. Unused if the
            graph contains NMS. Default: 0.6.
        person_class: Class of people: its index from 0, its name, or several with commas. Default: from the graph.
        layout: Name of the layout of the outputs, one of `seqpar_deploy.video.detect.layouts.LAYOUTS`. Default: from
            the graph.
        fit: Method to fit a frame to the input, "letterbox" or "stretch". Default: from the graph's layout.
        scaling: Scaling of pixel values: "unit" (0 to 1), "imagenet" (ImageNet's mean and standard deviation), "0-255",
            or one of the last two with "-bgr" (blue first). Default: from the graph's layout.
        threads: CPU threads per inference. Default: the runtime's default.
    """

    score: float = 0.25
    overlap: float = 0.6
    person_class: int | str | None = None
    layout: str | None = None
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
        layout: The recognised layout, the likeliest one while pictures have not decided.

    Raises:
        DetectorError: The file is not a detector of a known layout. `detect` raises it if the pictures contradict the
            layout, or do not decide between several.
        BackendUnavailableError: The runtime or OpenCV is not installed.

    Example:
        detector = OnnxDetector(Path("yolo11n.onnx"), options=OnnxOptions(score=0.4))
        for event in watch("street.mp4", recognizer, detector=detector):
            print(event.person.labels)
    """

    def __init__(self, path: Path, backend: BackendName = "auto", options: OnnxOptions = OnnxOptions()) -> None:
        _check(options)
        self._options, self._path = options, path
        self._cv2 = import_cv2()
        graph = _open(path, backend, options.threads)
        try:
            self._picture = _picture_input(graph)
            if self._picture.dtype == np.uint8 and not (options.scaling or "0-255").startswith("0-255"):
                raise DetectorError(
                    f"--detector-scaling must be 0-255 or 0-255-bgr for its input of bytes, got {options.scaling}"
                )
            self._others = {
                tensor.name: _other_input(tensor, self._picture)
                for tensor in graph.inputs
                if tensor.name != self._picture.name
            }
            self._choice = self._open_choice(graph)
        except DetectorError as error:
            raise self._named(error) from None
        self._graph: Session | None = graph
        self._sanity = Sanity(f"the detector {path}", self._advice)

    @property
    def layout(self) -> Layout:
        """The recognised layout."""
        return self._choice.layout

    def detect(self, frame: Frame) -> list[Box]:
        """Detect people.

        Args:
            frame: The frame.

        Returns:
            A box for each person, clipped to the frame.

        Raises:
            DetectorError: The detector is closed, or its outputs fit no layout, or several.
        """
        if self._graph is None:
            raise DetectorError("detect must be called before close, got a closed detector; open it again")
        layout = self.layout
        try:
            edges, scores = self._run(frame, layout)
            if (self.layout.fit, self.layout.scaling) != (layout.fit, layout.scaling):
                layout = self.layout
                edges, scores = self._run(frame, layout)  # the picture of another layout may hide people
        except DetectorError as error:
            raise self._named(error) from None
        if self.layout.suppress or len(self._choice.people) > 1:
            edges, scores = self._suppress(edges, scores)
        self._sanity.see(frame, edges)
        return _boxes(edges, scores, frame)

    def ready(self, stream: str) -> bool:
        """Return whether the latest picture's boxes are known: none is withheld because layouts disagree.

        Args:
            stream: Name of the stream. Layouts are the same for all.
        """
        return not self._choice.withheld

    def _run(self, frame: Frame, layout: Layout) -> tuple[FloatArray, FloatArray]:
        """Return edges in pixels of the frame and scores."""
        assert self._graph is not None
        picture, placement = place(frame.image, self._picture, self._options.fit or layout.fit)
        tensor = to_tensor(picture, self._picture, self._scaling(layout))
        edges, scores = self._choice.boxes(self._infer(self._graph, tensor, f"a picture of {frame.stream}"))
        return placement.to_frame(edges), scores

    def close(self) -> None:
        """Release the runtime's session. Safe to call twice.

        Raises:
            DetectorError: The layout is ambiguous, and too few pictures had boxes for `detect` to raise it.
        """
        if self._graph is None:
            return
        self._graph = None
        self._sanity.close()
        try:
            self._choice.close()
        except DetectorError as error:
            raise self._named(error) from None

    def _open_choice(self, graph: Session) -> LayoutChoice:
        blank = np.zeros(self._picture.shape, dtype=self._picture.dtype)
        outputs = self._infer(graph, blank, "a blank picture")
        names = read_names(graph.metadata)
        described = Graph(
            outputs=outputs,
            picture=self._picture,
            names=names,
            wanted=self._options.person_class,
            inputs={tensor.name for tensor in graph.inputs},
            ultralytics="ultralytics" in " ".join(graph.metadata.values()).lower(),
            layout=self._options.layout,
        )
        choice = LayoutChoice(
            possible_layouts(described),
            size=np.array([self._picture.width, self._picture.height] * 2, dtype=np.float32),
            names=names,
            wanted=described.wanted,
            threshold=self._options.score,
            shown=described.shown,
        )
        choice.see_blank(outputs)
        shown = choice.layout.numbered(names) if names else {}
        people = ", ".join(f"{at} ({shown[at].strip()})" if at in shown else str(at) for at in choice.people)
        likely = "" if choice.settled else " probably"
        _log.info("%s has%s the layout %s; people are class %s", self._path.name, likely, choice.layout.name, people)
        return choice

    def _scaling(self, layout: Layout) -> Scaling:
        """Return the scaling of the pixels. A graph whose input is bytes scales them itself."""
        return self._options.scaling or ("0-255" if self._picture.dtype == np.uint8 else layout.scaling)

    def _infer(self, graph: Session, tensor: npt.NDArray[Any], title: str) -> dict[str, npt.NDArray[Any]]:
        try:
            return _plain(graph.run({self._picture.name: tensor, **self._others}))
        except Exception as error:  # each runtime has its own exceptions
            _log.debug("the detector cannot run on %s", title, exc_info=error)
            raise DetectorError(
                f"it must run on {title}, got an error of the runtime; export it again, or try another backend"
            ) from None

    def _named(self, error: DetectorError) -> DetectorError:
        return DetectorError(f"the detector {self._path} cannot be used: {error}")

    def _advice(self) -> str:
        """Return the options that may mend wrong boxes, with their values."""
        people = self._choice.people
        others = [str(number) for number, _ in self._choice.fired.most_common(4) if number not in people]
        fired = f"; classes {', '.join(others)} fired" if others else ""
        return (
            f"check --person-class (now {', '.join(map(str, people))}{fired}), --detector-layout (now "
            f"{self.layout.name}), --detector-scaling (now {self._scaling(self.layout)}) and "
            f"--detector-threshold (now {self._options.score:g})"
        )

    def _suppress(self, edges: FloatArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
        sizes = np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2]], axis=1)
        kept = self._cv2.dnn.NMSBoxes(sizes, scores, self._options.score, self._options.overlap)
        rows = np.asarray(kept, dtype=np.int64).reshape(-1)
        return edges[rows], scores[rows]


def _check(options: OnnxOptions) -> None:
    if options.layout is not None and options.layout not in LAYOUTS:
        raise DetectorError(f"--detector-layout must be one of {', '.join(LAYOUTS)}, got {options.layout!r}")
    if not 0 <= options.score <= 1:
        raise DetectorError(f"--detector-threshold must be 0 to 1, got {options.score:g}")


def _plain(outputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return outputs by their names without TensorFlow's ":0"."""
    return {name.removesuffix(":0"): array for name, array in outputs.items()}


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
    """Return the input for the picture: (1, 3, H, W), (1, H, W, 3), or (3, H, W) as of torchvision's exports."""
    for tensor in graph.inputs:
        batched = len(tensor.shape) == 4
        if (batched and 3 in (tensor.shape[1], tensor.shape[3])) or (len(tensor.shape) == 3 and tensor.shape[0] == 3):
            if batched and tensor.shape[0] not in (None, 1):
                raise DetectorError(
                    f"its input {tensor.name} must be a batch of 1 or any number of pictures, got {tensor.shape[0]}; "
                    "export it for 1"
                )
            if np.dtype(tensor.dtype) not in (np.float32, np.float16, np.uint8):
                raise DetectorError(f"its input {tensor.name} must be float or uint8, got {np.dtype(tensor.dtype)}")
            first = not batched or tensor.shape[1] == 3
            height, width = tensor.shape[-2:] if first else tensor.shape[1:3]
            usual = _usual_size(graph)
            return PictureInput(
                name=tensor.name,
                channels="first" if first else "last",
                height=height or usual[0],
                width=width or usual[1],
                dtype=tensor.dtype,
                batched=batched,
            )
    shapes = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in graph.inputs)
    raise DetectorError(
        f"its inputs must include a picture (1, 3, height, width), (1, height, width, 3) or (3, height, width), got "
        f"{shapes}"
    )


def _usual_size(graph: Session) -> tuple[int, int]:
    """Return height and width for a graph that accepts any size: from its metadata, or `USUAL_SIDE`."""
    try:
        height, width = map(int, ast.literal_eval(graph.metadata.get("imgsz", "")))
    except (ValueError, SyntaxError, TypeError, OverflowError):
        return USUAL_SIDE, USUAL_SIDE
    usual = min(height, width) >= SIDES[0] and max(height, width) <= SIDES[1]
    return (height, width) if usual else (USUAL_SIDE, USUAL_SIDE)


def _other_input(tensor: Tensor, picture: PictureInput) -> npt.NDArray[Any]:
    """Return the constant value of another input, such that boxes are in pixels of the picture."""
    values: Any
    if tensor.name == "orig_target_sizes":
        values = [[picture.width, picture.height]]
    elif tensor.name == "im_shape":
        values = [[picture.height, picture.width]]
    elif tensor.name == "scale_factor":
        values = [[1, 1]]
    elif tensor.name == "pixel_mask" and len(tensor.shape) == 3:
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
