"""The contract with a recognition server: KServe V2 tensors of one request, its answer, and the served model.

A request has one crop: `crop` UINT8 (1, h, w, 3), or `image` BYTES (1, 1) with the bytes of an image file, and
optionally `draft` INT32 (1, k). The answer has `tokens` INT32 (1, capacity) padded with -1, `scores` FP32 (1, n) with
NaN for attributes that were not emitted, `probabilities` FP32 (1, n), `states` UINT8 (1, n), and `steps` INT32 (1, 1).
The parameters of the model's configuration hold the bundle's digest, its label set and its thresholds.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.thresholds import Limits, State, Thresholds
from seqpar_deploy.config import typed
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.errors import SeqparError, ServerError
from seqpar_deploy.images import encode_png
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet

REFUSAL = "seqpar: "  # begins the text of an error that is the request's own fault, and the model's lines in a log
OUTPUTS = ("tokens", "scores", "probabilities", "states", "steps")
STATES: tuple[State, ...] = ("no", "yes", "unknown")  # by their code
_DTYPES = {"tokens": "INT32", "scores": "FP32", "probabilities": "FP32", "states": "UINT8", "steps": "INT32"}
_NUMPY: Mapping[str, npt.DTypeLike] = {"INT32": "<i4", "FP32": "<f4", "UINT8": "u1"}
_MOST_RAW = 16 << 20  # bytes of a crop that is sent as it is; servers refuse requests of 64 MiB, or of 32 as an image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """Hold a tensor as it is sent: little-endian values in row-major order. BYTES have their length before them."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel:
    """Describe the model of a server.

    Attributes:
        label_set: The attributes.
        thresholds: The thresholds of the states, or None if states follow from the tokens.
        digest: The digest of the bundle.
        version: The version of seqpar-deploy on the server.
    """

    label_set: LabelSet
    thresholds: Thresholds | None
    digest: str
    version: str


def request_tensors(crop: Crop, draft: Draft, label_set: LabelSet) -> list[Tensor]:
    """Return the inputs for one crop, uint8 RGB (h, w, 3). A crop of more than 16 MiB is sent as a PNG."""
    if crop.nbytes > _MOST_RAW:
        picture = encode_png(crop)
        data = struct.pack("<I", len(picture)) + picture
        tensors = [Tensor(name="image", datatype="BYTES", shape=(1, 1), data=data)]
    else:
        tensors = [Tensor(name="crop", datatype="UINT8", shape=(1, *crop.shape), data=crop.tobytes())]
    if draft:
        tokens = np.asarray(draft[: len(label_set) + 1], dtype="<i4")  # servers refuse more than a sequence can have
        tensors.append(Tensor(name="draft", datatype="INT32", shape=(1, len(tokens)), data=tokens.tobytes()))
    return tensors


def prediction_of(answer: Mapping[str, Tensor], label_set: LabelSet) -> Prediction:
    """Convert the answer for one crop. Raises ServerError if no model with this label set can give it."""
    count = len(label_set)
    tokens, scores = _row(answer, "tokens", None), _row(answer, "scores", count)
    probabilities, states = _row(answer, "probabilities", count), _row(answer, "states", count)
    steps = int(_row(answer, "steps", 1)[0])
    length = int((tokens >= 0).sum())
    _expect("tokens", bool((tokens[length:] == -1).all()), "padded with -1 at its end only")
    tokens = tokens[:length]
    _expect("tokens", bool((tokens < label_set.vocabulary_size).all()), f"from 0 to {label_set.vocabulary_size - 1}")
    emitted = sorted({token - FIRST_ATTRIBUTE for token in tokens.tolist() if token >= FIRST_ATTRIBUTE})
    with np.errstate(invalid="ignore"):
        given = np.flatnonzero(~np.isnan(scores)).tolist()
        _expect("scores", given == emitted, "NaN exactly for the attributes that are not among the tokens")
        for name, values in (("scores", scores), ("probabilities", probabilities)):
            _expect(name, not ((values < 0) | (values > 1)).any(), "from 0 to 1")
    _expect("states", bool((states < len(STATES)).all()), "0, 1 or 2")
    _expect("steps", 0 <= steps <= 1 << 20, "a number of decoder steps")
    return Prediction(
        attributes=tuple(label_set.attributes[place].name for place in emitted),
        scores=tuple(scores[emitted].tolist()),
        probabilities=probabilities.astype(np.float32),
        states=tuple(STATES[code] for code in states.tolist()),
        tokens=tuple(tokens.tolist()),
        steps=steps,
    )


def served_model(parameters: Mapping[str, str]) -> ServedModel:
    """Read the parameters of a model's configuration. Raises ServerError."""
    if missing := [name for name in ("bundle", "version", "label_set") if not parameters.get(name)]:
        raise ServerError(
            f"its parameter {missing[0]} is missing, so it is no model of seqpar-deploy; check the model's name, or "
            "export it with seqpar export triton"
        )
    try:
        label_set = LabelSet.from_dict(_parsed(parameters, "label_set"), source="its parameter label_set")
        values = _parsed(parameters, "thresholds") if parameters.get("thresholds") else None
        thresholds = None
        if values is not None:
            limits = typed(values, dict[str, Limits], source="its parameter thresholds", error=ServerError)
            if set(limits) != {attribute.name for attribute in label_set.attributes}:
                raise ServerError("its parameter thresholds must name each attribute of the label set once")
            thresholds = Thresholds.from_limits(label_set, limits, Limits())
    except SeqparError as error:
        raise ServerError(f"{error}; export the model again with seqpar export triton") from None
    return ServedModel(
        label_set=label_set, thresholds=thresholds, digest=parameters["bundle"], version=parameters["version"]
    )


def served_labels(parameters: Mapping[str, str]) -> LabelSet | None:
    """Read the label set among the parameters, None without one. Raises SeqparError."""
    if not parameters.get("label_set"):
        return None
    return LabelSet.from_dict(_parsed(parameters, "label_set"), source="its parameter label_set")


def label_difference(expected: LabelSet, got: LabelSet) -> str | None:
    """Return the first difference of two label sets that changes the meaning of a prediction, or None."""
    if len(expected) != len(got):
        return f"{len(expected)} attributes, got {len(got)}"
    for one, other in zip(expected.attributes, got.attributes, strict=True):
        if one.name != other.name:
            return f"{one.name}, got {other.name} in its place"
        if one.group != other.group or expected.groups[one.group] != got.groups[other.group]:
            return f"{one.name} in the group {one.group}, got another group"
    return None


def _parsed(parameters: Mapping[str, str], name: str) -> Any:
    try:
        return json.loads(parameters[name])
    except (ValueError, RecursionError):
        raise ServerError(f"its parameter {name} must be JSON, got other text") from None


def _row(answer: Mapping[str, Tensor], name: str, columns: int | None) -> npt.NDArray[Any]:
    """Return the values of an output for one crop, (columns,)."""
    tensor = answer.get(name)
    _expect(name, tensor is not None, "among the outputs")
    assert tensor is not None
    datatype = _DTYPES[name]
    _expect(name, tensor.datatype == datatype, f"{datatype}, got {tensor.datatype}")
    shape = tensor.shape
    fits = len(shape) == 2 and shape[0] == 1 and columns in (None, shape[1])
    _expect(name, fits, f"of shape (1, {columns or 'capacity'}), got {shape}")
    dtype = np.dtype(_NUMPY[datatype])
    _expect(name, len(tensor.data) == shape[1] * dtype.itemsize, f"{shape[1]} values, got {len(tensor.data)} bytes")
    return np.frombuffer(tensor.data, dtype=dtype)


def _expect(name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ServerError(f"its output {name} must be {expected}")
