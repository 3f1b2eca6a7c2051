"""Run a checkpoint in eager FP32 on crops that are prepared like in the published code: the parity reference.

Crops pass through torchvision's transforms, as published, and not through `preprocess.py` or the encoder graph, so that
a mistake in either is detected.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from seqpar_deploy.backends.base import Float32Array
from seqpar_deploy.modeling.eager import EagerBackend, EagerState
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.parity.crops import ParityCrop
from seqpar_deploy.parity.reference import Reference, reference_generations
from seqpar_deploy.preprocess import Crop, Preprocessing
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
    prepared = np.stack([published_crop(person.image, size, preprocessing) for person in people])
    eager = EagerBackend(model, token_table, preprocessing)
    reference = reference_generations(
        eager,
        prepared,
        max_steps=model.architecture.attributes,
        beams=beams,
        encode=lambda rows: eager.encode_images(published_images(prepared[rows], preprocessing)),
        on_progress=on_progress,
    )
    return dataclasses.replace(
        reference,
        people=tuple(people),
        attributes=tuple(attribute.name for attribute in label_set.attributes),
        suspects=_suspects(model, eager, prepared[:1], preprocessing),
    )


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
    model: SequencePAR, eager: EagerBackend, crop: Crop, preprocessing: Preprocessing
) -> dict[str, Float32Array]:
    """Return the log-probabilities after `<bos>` under each known mistake, by a description of the mistake."""

    def after_bos(state: EagerState) -> Float32Array:
        return np.asarray(eager.step(state, np.array([[BOS]])).log_probs[0, 0])

    def first_step(images: Tensor) -> Float32Array:
        return after_bos(eager.encode_images(images))

    image = eager.encode_images(published_images(crop, preprocessing)).cross_kv
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
            found[f"positions are off by one, {name}"] = after_bos(EagerState(image))
    return found


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
