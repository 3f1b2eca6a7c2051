"""Tensors of requests and responses: crops out of the ones, the others out of predictions. It needs no Triton."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.errors import ImageError, SeqparError, StrategyError
from seqpar_deploy.images import decode_image
from seqpar_deploy.prediction import Prediction, prediction_values
from seqpar_deploy.preprocess import Crop, check_crop
from seqpar_deploy.serving.protocol import STATES
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet

OUTPUTS = ("tokens", "scores", "probabilities", "states", "steps", "json")
NO_TOKEN = -1  # pads rows of tokens
MOST_IMAGE_BYTES = 32 << 20

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Hold the input tensors of one request, each None if it was not sent.

    Attributes:
        image: Image files, bytes (B, 1).
        crop: RGB pixels, uint8 (B, h, w, 3).
        draft: Tokens of earlier predictions, int32 (B, k), padded with -1.
    """

    image: Array | None = None
    crop: Array | None = None
    draft: Array | None = None


def read_inputs(inputs: Inputs, label_set: LabelSet) -> Iterator[tuple[Crop, Draft]]:
    """Yield the crops of a request one by one, each with its draft. Image files are decoded as they are reached.

    Args:
        inputs: The tensors.
        label_set: The label set of the bundle.

    Yields:
        A crop, uint8 RGB (h, w, 3), and its draft, or None for a crop without one.

    Raises:
        ImageError: A crop is not an image, is damaged or too large.
        StrategyError: A draft has a token that is not in the vocabulary.
        SeqparError: Both `image` and `crop` are given, or none of them.
    """
    if (inputs.image is None) == (inputs.crop is None):
        got = "none" if inputs.image is None else "both"
        raise SeqparError(f"a request must have one of the inputs image and crop, got {got}; send one of them")
    drafts = None if inputs.draft is None else _drafts(inputs.draft, label_set)
    some: Iterable[Crop] = _decoded(inputs.image) if inputs.image is not None else _checked(inputs.crop)
    for row, crop in enumerate(some):
        yield crop, None if drafts is None else drafts[row]


def _decoded(images: Array) -> Iterator[Crop]:
    files = images.reshape(-1).tolist()
    for row, content in enumerate(files):
        name = f"image[{row}]"
        if not isinstance(content, bytes):
            raise ImageError(f"{name} must be the bytes of an image file, got {type(content).__name__}; send BYTES")
        if len(content) > MOST_IMAGE_BYTES:
            size = len(content) / (1 << 20)
            raise ImageError(f"{name} must have at most 32 MiB, got {size:.1f}; send a crop of the person")
        yield decode_image(content, name)


def _checked(crops: Array | None) -> Iterator[Crop]:
    assert crops is not None
    for row, crop in enumerate(crops):
        yield check_crop(crop, f"crop[{row}]")


def _drafts(tokens: Array, label_set: LabelSet) -> list[Draft]:
    longest, vocabulary = len(label_set) + 1, label_set.vocabulary_size
    if tokens.ndim != 2 or tokens.shape[1] > longest:
        raise StrategyError(f"draft must have shape (B, k) with k up to {longest}, got {tokens.shape}; send tokens")
    drafts: list[Draft] = []
    for row, values in enumerate(tokens.tolist()):
        length = values.index(NO_TOKEN) if NO_TOKEN in values else len(values)
        wrong = [token for token in values[:length] if not 0 <= token < vocabulary]
        wrong += [token for token in values[length:] if token != NO_TOKEN]
        if wrong:
            raise StrategyError(
                f"draft[{row}] must have token ids from 0 to {vocabulary - 1}, padded with -1 at the end, got "
                f"{wrong[0]}; send tokens of an earlier prediction"
            )
        drafts.append(values[:length] or None)
    return drafts


def output_arrays(predictions: Sequence[Prediction], label_set: LabelSet, names: Iterable[str]) -> dict[str, Array]:
    """Return the requested output tensors of B predictions.

    Args:
        predictions: The predictions of one request, one or more.
        label_set: The label set of the predictions.
        names: The requested outputs, of `OUTPUTS`. Others are not computed.

    Returns:
        Arrays by name: `tokens` int32 (B, n + 1) padded with -1, `scores` float32 (B, n) with NaN for attributes that
            were not emitted, `probabilities` float32 (B, n), `states` uint8 (B, n) by place in `STATES`, `steps` int32
            (B, 1), `json` bytes (B, 1).
    """
    makers = {
        "tokens": _tokens,
        "scores": _scores,
        "probabilities": lambda some, _: np.stack([one.probabilities for one in some]).astype(np.float32, copy=False),
        "states": lambda some, _: np.array([[STATES.index(s) for s in one.states] for one in some], dtype=np.uint8),
        "steps": lambda some, _: np.array([[one.steps] for one in some], dtype=np.int32),
        "json": _json,
    }
    return {name: makers[name](predictions, label_set) for name in names}


def _tokens(predictions: Sequence[Prediction], label_set: LabelSet) -> Array:
    tokens = np.full((len(predictions), len(label_set) + 1), NO_TOKEN, dtype=np.int32)
    for row, prediction in enumerate(predictions):
        tokens[row, : len(prediction.tokens)] = prediction.tokens
    return tokens


def _scores(predictions: Sequence[Prediction], label_set: LabelSet) -> Array:
    scores = np.full((len(predictions), len(label_set)), np.nan, dtype=np.float32)
    for row, prediction in enumerate(predictions):
        places = [label_set.token(name) - FIRST_ATTRIBUTE for name in prediction.attributes]
        scores[row, places] = prediction.scores
    return scores


def _json(predictions: Sequence[Prediction], label_set: LabelSet) -> Array:
    texts = [json.dumps(prediction_values(one, label_set), ensure_ascii=False).encode() for one in predictions]
    return np.array(texts, dtype=np.object_).reshape(-1, 1)
