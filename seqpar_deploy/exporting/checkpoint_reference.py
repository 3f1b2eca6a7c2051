"""Run a checkpoint in eager FP32 on crops that are prepared like in the published code: the parity reference.

Crops pass through torchvision's transforms, as published, and not through `preprocess.py` or the encoder graph, so that
a mistake in either is detected. For a checkpoint of trimmed crops, the widths are found by resizing marked content, and
open_clip's own image tower runs with the positions of the columns that are left.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn

from seqpar_deploy.backends.base import Float32Array
from seqpar_deploy.modeling.eager import EagerBackend, EagerState
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.parity.crops import ParityCrop
from seqpar_deploy.parity.reference import Reference, Suspect, reference_generations
from seqpar_deploy.preprocess import Crop, Preprocessing, Trimming
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import BOS, LabelSet

_NORMALISATIONS = {  # mean and std of other models
    "CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "(0.5, 0.5)": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "(0, 1), which is no normalisation": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def checkpoint_reference(
    model: SequencePAR,
    token_table: Tensor,
    label_set: LabelSet,
    people: Sequence[ParityCrop],
    *,
    beams: Sequence[int] = (),
    on_progress: OnProgress | None = None,
) -> Reference:
    """Return the reference for these crops. For the crops `beams`, beam search is run as well."""
    size, preprocessing = model.architecture.image_size, label_set.preprocessing
    trimming = model.architecture.trimming
    prepared = np.stack([published_crop(person.image, size, preprocessing) for person in people])
    columns = [trimmed_columns(person.image, trimming, preprocessing) if trimming else 0 for person in people]
    eager = EagerBackend(model, token_table, preprocessing)

    def encode(rows: list[int]) -> EagerState:
        images = published_images(prepared[rows], preprocessing)
        return _encode(model, images, columns[rows[0]] or model.architecture.grid)

    reference = reference_generations(
        eager,
        prepared,
        max_steps=model.architecture.attributes,
        beams=beams,
        encode=encode,
        columns=columns,
        on_progress=on_progress,
    )
    suspects = _suspects(model, eager, prepared[:1], columns[0], preprocessing)
    for width in sorted(set(columns) - {0, model.architecture.grid}):
        crop = max(crop for crop, own in enumerate(columns) if own == width)  # an adversarial one: golden data keep it
        suspects += _misplaced(model, eager, published_images(prepared[[crop]], preprocessing), crop, width)
    return dataclasses.replace(
        reference,
        people=tuple(people),
        attributes=tuple(attribute.name for attribute in label_set.attributes),
        suspects=tuple(suspects),
        trimming=trimming,
        columns=np.array(columns, dtype=np.int64),
    )


def trimmed_columns(crop: Crop, trimming: Trimming, preprocessing: Preprocessing) -> int:
    """Return the patch columns that a model with this trimming reads of a crop.

    The crop's pixels become NaN and the padding 0, and a resize in floating point spreads NaN over all pixel columns
    that the filter mixes with the crop, those with a weight of 0 included.
    """
    from torchvision.transforms import InterpolationMode, Resize

    (height, width), grid = crop.shape[:2], trimming.columns[-1]
    side = max(width, height) if preprocessing.pad == "square" else width
    marked = np.zeros((height, side), dtype=np.float32)
    left = (side - width) // 2
    marked[:, left : left + width] = np.nan
    size = grid * trimming.patch_size
    resize = Resize((size, size), interpolation=InterpolationMode(preprocessing.interpolation))
    touched = np.isnan(np.asarray(resize(Image.fromarray(marked)))).any(axis=0).reshape(grid, -1).any(axis=1)
    beside = [(grid - columns) // 2 for columns in trimming.columns]
    fitting = [cut for cut in beside if not touched[:cut].any() and not touched[grid - cut :].any()]
    return grid - 2 * max(fitting)


def _encode(model: SequencePAR, images: Tensor, columns: int, first: int | None = None) -> EagerState:
    """Start sequences from the middle patch columns of images (B, 3, H, W), with their pooled image tokens.

    `first` is the column from which positions are taken. Default: the first of the middle ones.
    """
    tower, grid = model.clip_model.visual, model.architecture.grid
    beside = (grid - columns) // 2
    kept = range(beside if first is None else first, (beside if first is None else first) + columns)
    positions = [0] + [1 + grid * row + column for row in range(grid) for column in kept]
    published = copy.copy(tower)  # shares all modules
    published.__class__ = VisionTransformer
    published._parameters = dict(tower._parameters)
    published.positional_embedding = nn.Parameter(tower.positional_embedding[positions], requires_grad=False)
    patch = images.shape[3] // grid
    with torch.inference_mode():
        tokens = published(images[..., beside * patch : images.shape[3] - beside * patch])  # (B, N, d)
        state = EagerState(model.decoder.cross_kv(tokens))
    values = tokens.numpy()
    state.pooled = np.concatenate([values.mean(axis=1), values.max(axis=1), values[:, 0]], axis=1)
    return state


def published_crop(crop: Crop, image_size: int, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Pad and resize a crop like the published code, to (image_size, image_size, 3)."""
    from torchvision.transforms import InterpolationMode, Resize

    image = Image.fromarray(crop)
    width, height = image.size
    if preprocessing.pad == "square":
        side = max(width, height)
        square = Image.new("RGB", (side, side), preprocessing.fill)
        square.paste(image, (int((side - width) / 2), int((side - height) / 2)))
        image = square
    resize = Resize((image_size, image_size), interpolation=InterpolationMode(preprocessing.interpolation))
    return np.array(resize(image))


def published_images(prepared: Crop, preprocessing: Preprocessing) -> Tensor:
    """Normalise prepared crops (B, H, W, 3) like the published code, to images (B, 3, H, W)."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform = Compose([ToTensor(), Normalize(mean=preprocessing.mean, std=preprocessing.std)])
    return torch.stack([transform(Image.fromarray(crop)) for crop in prepared])


def _suspects(
    model: SequencePAR, eager: EagerBackend, crop: Crop, columns: int, preprocessing: Preprocessing
) -> list[Suspect]:
    """Return the outputs for the first crop (1, H, H, 3) under each known mistake of normalisation and of steps."""
    width = columns or model.architecture.grid

    def first_step(images: Tensor) -> Float32Array:
        return _after_bos(eager, _encode(model, images, width))

    image = _encode(model, published_images(crop, preprocessing), width).cross_kv
    pixels = torch.from_numpy(crop).permute(0, 3, 1, 2).float() / 255
    found = {
        "colour channels are swapped (BGR for RGB) in the encoder": first_step(
            published_images(np.ascontiguousarray(crop[..., ::-1]), preprocessing)
        ),
        "pixels are not scaled from 0..255 to 0..1": first_step(
            (255 * pixels - torch.tensor(preprocessing.mean).view(3, 1, 1))
            / torch.tensor(preprocessing.std).view(3, 1, 1)
        ),
    }
    expected = f"mean {preprocessing.mean}, std {preprocessing.std}"
    for name, (mean, std) in _NORMALISATIONS.items():
        for wrong, changed in (
            ("mean and std", dataclasses.replace(preprocessing, mean=mean, std=std)),
            ("mean", dataclasses.replace(preprocessing, mean=mean)),
            ("std", dataclasses.replace(preprocessing, std=std)),
        ):
            if changed != preprocessing:
                mistake = f"normalisation must have {expected}, got {wrong} of {name}"
                found.setdefault(mistake, first_step(published_images(crop, changed)))
    for name, shift in (("one too far", -1), ("one too near", 1)):
        with _positions_shifted(model, shift):
            found[f"positions are off by one, {name}"] = _after_bos(eager, EagerState(image))
    return [Suspect(mistake=mistake, crop=0, log_probs=log_probs) for mistake, log_probs in found.items()]


def _misplaced(model: SequencePAR, eager: EagerBackend, image: Tensor, crop: int, columns: int) -> list[Suspect]:
    """Return the outputs for a trimmed crop whose patches get the positions of other columns of the square."""
    beside = (model.architecture.grid - columns) // 2
    mistakes = {
        "one column too far right": beside + 1,
        "one column too far left": beside - 1,
        "those of the left edge": 0,
    }
    # A dictionary by place, since the left edge may be one column away.
    by_first = {first: name for name, first in reversed(mistakes.items())}
    return [
        Suspect(
            mistake=f"positions of image patches must be those of the middle {columns} columns, got {name}",
            crop=crop,
            log_probs=_after_bos(eager, _encode(model, image, columns, first)),
        )
        for first, name in by_first.items()
    ]


def _after_bos(eager: EagerBackend, state: EagerState) -> Float32Array:
    return np.asarray(eager.step(state, np.array([[BOS]])).log_probs[0, 0])


@contextlib.contextmanager
def _positions_shifted(model: SequencePAR, shift: int) -> Iterator[None]:
    table = model.decoder.pos_emb.weight
    kept = table.detach().clone()
    try:
        with torch.no_grad():
            table.copy_(kept.roll(shift, 0))
        yield
    finally:
        with torch.no_grad():
            table.copy_(kept)
