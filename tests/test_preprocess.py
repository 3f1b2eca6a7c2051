from __future__ import annotations

import dataclasses
import threading
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from seqpar_deploy import preprocess
from seqpar_deploy.errors import ImageError
from seqpar_deploy.modeling.eager import normalise
from seqpar_deploy.preprocess import Crop, Preprocessing, prepare, prepare_batch


@pytest.mark.parametrize("shape", [(160, 60), (44, 21), (60, 160), (224, 224), (1, 1), (3, 500), (1000, 400)])
def test_equals_the_published_transform(shape: tuple[int, int], rng: np.random.Generator) -> None:
    """Centred black padding, then torchvision's Resize, ToTensor and Normalize on a PIL image."""
    crop = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    side = max(shape)
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + shape[0], left : left + shape[1]] = crop
    published = transforms.Compose(
        [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )
    prepared = prepare(crop, image_size=224, preprocessing=Preprocessing())
    ours = normalise(torch.from_numpy(prepared)[None], Preprocessing())[0]
    torch.testing.assert_close(ours, published(Image.fromarray(square)), atol=1e-6, rtol=0)


def test_padding_is_optional() -> None:
    crop = np.full((40, 10, 3), 200, np.uint8)
    unpadded = prepare(crop, image_size=32, preprocessing=Preprocessing(pad="none"))
    assert (unpadded == 200).all()
    grey = prepare(crop, image_size=32, preprocessing=Preprocessing(fill=(7, 8, 9)))
    assert grey[0, 0].tolist() == [7, 8, 9]


def test_crops_of_any_sizes_make_one_batch(crops: list[Crop]) -> None:
    batch = prepare_batch(crops, image_size=64, preprocessing=Preprocessing())
    assert batch.shape == (20, 64, 64, 3)
    assert batch.dtype == np.uint8


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_threads_do_not_change_a_byte(
    threads: int,
    interpolation: Literal["bilinear", "bicubic"],
    crops: list[Crop],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = crops + [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in rng.integers(1, 400, (5, 2))]
    monkeypatch.setattr(preprocess, "PIXELS_PER_THREAD", 1)
    preprocessing = Preprocessing(interpolation=interpolation)
    prepared = prepare_batch(batch, image_size=64, preprocessing=preprocessing, threads=threads)
    for row, crop in zip(prepared, batch, strict=True):
        assert np.array_equal(row, prepare(crop, image_size=64, preprocessing=preprocessing))


@pytest.mark.parametrize(
    ("rows", "side", "cores", "expected"),
    [(1, 5000, 8, 1), (2, 1000, 8, 1), (4, 1000, 8, 2), (2, 5000, 8, 2), (64, 1000, 8, 8), (64, 1000, 1, 1)],
)
def test_the_number_of_threads_is_bounded(
    rows: int, side: int, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the work, so that small batches start no thread, and by the cores within the quota."""
    used = set()
    everyone = threading.Barrier(expected)

    def watched(crop: Crop, **_options: object) -> Crop:
        used.add(threading.current_thread())
        everyone.wait(10)
        return crop[:4, :4]

    monkeypatch.setattr(preprocess, "_cores", lambda: cores)
    monkeypatch.setattr(preprocess, "prepare", watched)
    batch = [np.zeros((side, 4, 3), np.uint8)] * rows
    prepare_batch(batch, image_size=4, preprocessing=Preprocessing())
    assert len(used) == expected


@pytest.mark.parametrize("wrong", [(3, 20), (0, 31), (17, 18)])
def test_the_first_wrong_crop_is_reported(wrong: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "PIXELS_PER_THREAD", 1)
    batch: list[Crop] = [np.zeros((4, 4, 3), np.uint8)] * 32
    for row in wrong:
        batch[row] = np.zeros((4, 4, row + 4), np.uint8)
    with pytest.raises(ImageError, match=rf"got \(4, 4, {wrong[0] + 4}\)"):
        prepare_batch(batch, image_size=4, preprocessing=Preprocessing(), threads=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prepare")]


@pytest.mark.parametrize("shape", [(1, 200_000), (200_000, 1)])
def test_an_extreme_strip_does_not_exhaust_memory(shape: tuple[int, int]) -> None:
    crop = np.full((*shape, 3), 255, np.uint8)
    prepared = prepare(crop, image_size=32, preprocessing=Preprocessing())
    assert prepared.shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ("person.png", "crop .*NumPy array.* got str"),
        (np.zeros((4, 4, 3), np.float32), "uint8, got float32"),
        (np.zeros((4, 4), np.uint8), r"\(h, w, 3\).* got \(4, 4\); .*grey"),
        (np.zeros((4, 4, 4), np.uint8), "alpha channel"),
        (np.zeros((4, 4, 4, 3), np.uint8), "single crops"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_what_is_no_crop_is_refused(crop: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        prepare(crop, image_size=32, preprocessing=Preprocessing())  # type: ignore[arg-type]


def test_too_many_pixels_are_refused() -> None:
    crop = np.lib.stride_tricks.as_strided(np.zeros(3, np.uint8), (9000, 9000, 3), (0, 0, 1))
    with pytest.raises(ImageError, match="got 9000 x 9000"):
        prepare(crop, image_size=32, preprocessing=Preprocessing())


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Preprocessing().pad = "none"  # type: ignore[misc]
