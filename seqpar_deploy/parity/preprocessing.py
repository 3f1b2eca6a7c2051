"""Compare prepared crops with the published preprocessing, byte for byte, and the widths that they are trimmed to.

A difference is described with the likely mistake.

The expected bytes come from another implementation (`checkpoint_reference.py`), or from golden data made by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from seqpar_deploy.parity.crops import ParityCrop
from seqpar_deploy.parity.reference import Reference
from seqpar_deploy.preprocess import FILTERS, Crop, Preprocessing, Trimming, columns_read, prepare_batch

_NAMES = {Image.Resampling.NEAREST: "the nearest pixel"} | {value: name for name, value in FILTERS.items()}

Mistake = Callable[[Image.Image], Image.Image]


def preprocessing_difference(
    people: Sequence[ParityCrop], expected: Crop, image_size: int, preprocessing: Preprocessing
) -> str | None:
    """Compare the outputs of `prepare_batch` with `expected`, uint8 (G, H, W, 3).

    Returns one line on the difference, or None if all bytes are equal.
    """
    images = [person.image for person in people]
    got = prepare_batch(images, image_size=image_size, preprocessing=preprocessing)
    different = [crop for crop in range(len(people)) if not np.array_equal(got[crop], expected[crop])]
    if not different:
        return None
    crop = different[0]
    crops = f"crop {crop} ({people[crop].name}) and {len(different) - 1} more" if len(different) > 1 else f"crop {crop}"
    cause = _likely_mistake([images[crop] for crop in different], got[different], expected[different], preprocessing)
    if cause:
        return f"{crops}: {cause}"
    most = int(np.abs(got[different].astype(int) - expected[different]).max())
    return f"{crops}: bytes differ by up to {most} from the reference preprocessing, for an unknown reason"


def trimming_difference(reference: Reference, trimming: Trimming | None, preprocessing: Preprocessing) -> str | None:
    """Compare how a bundle trims the reference's raw crops, and groups them by width, with the checkpoint.

    Returns one line on the difference, or None.
    """
    expected, got = (list(how.columns) if how else None for how in (reference.trimming, trimming))
    if got != expected:
        return f"columns must be {_columns(expected)} as in the checkpoint, got {_columns(got)} in the manifest"
    widths = reference.widths
    for crop, person in enumerate(reference.people):
        if (width := columns_read(person.image, trimming, preprocessing)) != widths[crop]:
            pixels = f"{person.image.shape[1]} x {person.image.shape[0]} pixels"
            return (
                f"crop {crop} ({person.name}, {pixels}) must keep {widths[crop]} patch columns, which its content and "
                f"the filter of the resize touch, got {width}"
            )
    crops = range(len(widths))
    for size in (1, 2, 5):
        batches = reference.batches(crops, size)
        if mixed := next((batch for batch in batches if len({widths[crop] for crop in batch}) > 1), None):
            found = ", ".join(f"crop {crop} of {widths[crop]} patch columns" for crop in mixed)
            return f"a batch must have crops of one width, got {found}"
        if sorted(crop for batch in batches for crop in batch) != list(crops):
            return f"batches of {size} must have each of the {len(crops)} crops once, got {batches}"
    return None


def _columns(columns: list[int] | None) -> str:
    return "none, all padding is read," if columns is None else str(columns)


def _likely_mistake(images: Sequence[Crop], got: Crop, expected: Crop, preprocessing: Preprocessing) -> str | None:
    """Return the known mistake that is closest to `got`, if it is much closer than the expected bytes."""
    distances = {}
    for name, mistake in _mistakes(got.shape[1], preprocessing).items():
        made = np.stack([np.asarray(mistake(Image.fromarray(image))) for image in images])
        distances[name] = _distance(made, got)
    name = min(distances, key=lambda known: distances[known])
    # Implementations of the same mistake round differently, so equality is not required.
    return name if distances[name] < 0.25 * _distance(expected, got) else None


def _distance(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(np.float64) - b).mean())


def _mistakes(size: int, preprocessing: Preprocessing) -> Mapping[str, Mistake]:
    """Return a function per known mistake, by a description of the mistake."""
    sides, right = (size, size), FILTERS[preprocessing.interpolation]
    padded = preprocessing.pad == "square"
    expected = preprocessing.interpolation

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
        "colour channels must be RGB, got BGR": lambda image: Image.fromarray(
            np.ascontiguousarray(np.asarray(prepared(image).resize(sides, right))[..., ::-1])
        ),
        f"resize must be {expected} with antialiasing, got one without": lambda image: _without_antialiasing(
            prepared(image), size
        ),
    }
    for other, name in _NAMES.items():
        if other != right:
            found[f"resize must be {expected}, got {name}"] = lambda image, other=other: (  # type: ignore[misc]
                prepared(image).resize(sides, other)
            )
    if padded:
        found["padding must be to a square, got none"] = lambda image: image.resize(sides, right)
        found["padding must be on all sides, got right and below"] = lambda image: pad(image, centred=False).resize(
            sides, right
        )
        for colour, fill in (("black", (0, 0, 0)), ("grey", (127, 127, 127)), ("white", (255, 255, 255))):
            if fill != preprocessing.fill:
                found[f"padding colour must be {preprocessing.fill}, got {colour}"] = lambda image, fill=fill: (  # type: ignore[misc]
                    pad(image, fill).resize(sides, right)
                )
    else:
        found["padding must be none, got a square"] = lambda image: pad(image).resize(sides, right)
    return found


def _without_antialiasing(image: Image.Image, size: int) -> Image.Image:
    """Resize bilinearly from the four nearest pixels at every scale, with repeated edges."""
    pixels = np.asarray(image, dtype=np.float64)
    for axis in (0, 1):
        length = pixels.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        high = np.minimum(low + 1, length - 1)
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share
    return Image.fromarray(np.round(pixels).astype(np.uint8))
