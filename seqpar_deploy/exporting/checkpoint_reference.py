"""What a checkpoint says, in eager FP32, of crops that are prepared as the published code prepares them.

Pictures reach the network by torchvision's transforms, as published, and by nothing of `preprocess.py` or of the
encoder graph, so that a mistake in either shows.
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

_NORMALISATIONS = {  # mean and std that other models are used with
    "of CLIP": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "of ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0 and 1, as if left out": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
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
    """The reference for these crops; `beams` are those whose beams are searched as well."""
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
    """A crop padded and resized as the published code does it (image_size, image_size, 3)."""
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
    """Normalised images (B, 3, H, W) of prepared crops (B, H, W, 3), as the published code makes them."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    transform = Compose([ToTensor(), Normalize(mean=preprocessing.mean, std=preprocessing.std)])
    return torch.stack([transform(Image.fromarray(crop)) for crop in prepared])


def _suspects(
    model: SequencePAR, eager: EagerBackend, crop: Crop, preprocessing: Preprocessing
) -> dict[str, Float32Array]:
    """What would follow `<bos>` if a known mistake had been made, by what one would say of it."""

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
    wanted = f"wanted mean {preprocessing.mean}, std {preprocessing.std}"
    for name, (mean, std) in _NORMALISATIONS.items():
        for wrong, changed in (
            ("mean and std are those", dataclasses.replace(preprocessing, mean=mean, std=std)),
            ("mean is that", dataclasses.replace(preprocessing, mean=mean)),
            ("std is that", dataclasses.replace(preprocessing, std=std)),
        ):
            if changed != preprocessing:
                found.setdefault(f"{wrong} {name}, {wanted}", first_step(published_images(crop, changed)))
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
