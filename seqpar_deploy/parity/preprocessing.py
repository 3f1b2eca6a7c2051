"""Are crops prepared as the published model's were? Compared byte for byte; where they differ, which mistake is it?

The wanted bytes come from another implementation (`checkpoint_reference.py`) or from golden data made by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from seqpar_deploy.parity.crops import ParityCrop
from seqpar_deploy.preprocess import FILTERS, Crop, Preprocessing, prepare_batch

_NAMES = {Image.Resampling.NEAREST: "the nearest pixel"} | {value: name for name, value in FILTERS.items()}

Mistake = Callable[[Image.Image], Image.Image]


def preprocessing_difference(
    people: Sequence[ParityCrop], wanted: Crop, image_size: int, preprocessing: Preprocessing
) -> str | None:
    """What is wrong with the bytes `prepare_batch` gives for these crops, in one line; None if nothing is.

    `wanted` uint8 (G, H, W, 3).
    """
    images = [person.image for person in people]
    got = prepare_batch(images, image_size=image_size, preprocessing=preprocessing)
    different = [crop for crop in range(len(people)) if not np.array_equal(got[crop], wanted[crop])]
    if not different:
        return None
    crop = different[0]
    where = f"crop {crop} ({people[crop].name}) and {len(different) - 1} more" if len(different) > 1 else f"crop {crop}"
    cause = _likely_mistake([images[crop] for crop in different], got[different], wanted[different], preprocessing)
    if cause:
        return f"{where}: as if {cause}"
    most = int(np.abs(got[different].astype(int) - wanted[different]).max())
    return f"{where}: bytes differ by up to {most} from the reference preprocessing, as no known mistake explains"


def _likely_mistake(images: Sequence[Crop], got: Crop, wanted: Crop, preprocessing: Preprocessing) -> str | None:
    """The mistake that comes closest to `got`, if it comes much closer than what was wanted."""
    distances = {}
    for name, mistake in _mistakes(got.shape[1], preprocessing).items():
        made = np.stack([np.asarray(mistake(Image.fromarray(image))) for image in images])
        distances[name] = _distance(made, got)
    name = min(distances, key=lambda known: distances[known])
    # Implementations of one mistake round in their own ways, so that equality is not asked for.
    return name if distances[name] < 0.25 * _distance(wanted, got) else None


def _distance(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(np.float64) - b).mean())


def _mistakes(size: int, preprocessing: Preprocessing) -> Mapping[str, Mistake]:
    """Each known mistake by what one would say of it: a picture -> what the mistake makes of it."""
    sides, right = (size, size), FILTERS[preprocessing.interpolation]
    padded = preprocessing.pad == "square"
    wanted = preprocessing.interpolation

    def pad(
        image: Image.Image, fill: tuple[int, int, int] = preprocessing.fill, *, centred: bool = True
    ) -> Image.Image:
        side = max(image.size)
        square = Image.new("RGB", (side, side), fill)
        left, top = ((side - image.width) // 2, (side - image.height) // 2) if centred else (0, 0)
        square.paste(image, (left, top))
        return square

    def prepared(image: Image.Image) -> Image.Image:
        return pad(image) if padded else image

    found: dict[str, Mistake] = {
        "its colour channels were swapped (BGR for RGB)": lambda image: Image.fromarray(
            np.ascontiguousarray(np.asarray(prepared(image).resize(sides, right))[..., ::-1])
        ),
        f"resized without antialiasing, wanted {wanted} with it": lambda image: _without_antialiasing(
            prepared(image), size
        ),
    }
    for other, name in _NAMES.items():
        if other != right:
            found[f"resized with {name}, wanted {wanted}"] = lambda image, other=other: (  # type: ignore[misc]
                prepared(image).resize(sides, other)
            )
    if padded:
        found["the padding to a square was left out"] = lambda image: image.resize(sides, right)
        found["padded on the right and below, wanted on all sides"] = lambda image: pad(image, centred=False).resize(
            sides, right
        )
        for colour, fill in (("black", (0, 0, 0)), ("grey", (127, 127, 127)), ("white", (255, 255, 255))):
            if fill != preprocessing.fill:
                found[f"padded with {colour}, wanted {preprocessing.fill}"] = lambda image, fill=fill: (  # type: ignore[misc]
                    pad(image, fill).resize(sides, right)
                )
    else:
        found["padded to a square, wanted no padding"] = lambda image: pad(image).resize(sides, right)
    return found


def _without_antialiasing(image: Image.Image, size: int) -> Image.Image:
    """Bilinear from the four nearest pixels, however much smaller the picture becomes; edges repeated."""
    pixels = np.asarray(image, dtype=np.float64)
    for axis in (0, 1):
        length = pixels.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        high = np.minimum(low + 1, length - 1)
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share
    return Image.fromarray(np.round(pixels).astype(np.uint8))
