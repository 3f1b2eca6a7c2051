"""Which columns of padding a model does not read: properties over random sizes, filters, grids and colours."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_architecture

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BundleError, CheckpointError
from seqpar_deploy.modeling.architecture import Architecture
from seqpar_deploy.preprocess import (
    Crop,
    Preprocessing,
    Trimming,
    batches_by_columns,
    columns_read,
    default_columns,
    prepare,
    wrong_columns,
)

SIXTEEN = Trimming(columns=(6, 8, 10, 16), patch_size=14)  # of the published encoder
FILTERS = ("bilinear", "bicubic")
GRIDS = ((16, 14), (8, 16), (7, 4), (5, 9), (2, 8), (1, 6))  # patch columns, pixels per patch


def every_width(grid: int, patch_size: int) -> Trimming:
    """Leave away as much as the rule ever allows."""
    return Trimming(columns=tuple(range(2 - grid % 2, grid + 1, 2)), patch_size=patch_size)


def sizes(seed: int, count: int) -> Iterator[tuple[int, int]]:
    """Heights and widths: most tall as people are, some of a few pixels, nearly square or wide."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        height = int(rng.choice([rng.integers(1, 12), rng.integers(12, 120), rng.integers(120, 500)]))
        share = rng.uniform(0.2, 0.7) if number % 4 else rng.uniform(0.01, 1.3)
        yield height, max(1, round(height * share))


def left_away(trimming: Trimming, prepared: Crop, columns: int) -> Crop:
    """Return the pixels of a prepared crop that a model of so many columns does not read."""
    read = trimming.trim(prepared, columns)
    cut = (prepared.shape[1] - read.shape[1]) // 2
    np.testing.assert_array_equal(read, prepared[:, cut : prepared.shape[1] - cut])
    return np.concatenate([prepared[:, :cut], prepared[:, prepared.shape[1] - cut :]], axis=1)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("grid", "patch_size"), GRIDS)
def test_columns_that_are_left_away_are_the_fill_to_the_byte(grid: int, patch_size: int, interpolation: Any) -> None:
    trimming, rng = every_width(grid, patch_size), np.random.default_rng(grid)
    trimmed = 0
    for height, width in sizes(seed=patch_size, count=120):
        fill = tuple(rng.integers(0, 256, 3).tolist())
        preprocessing = Preprocessing(fill=fill, interpolation=interpolation)
        crop = np.broadcast_to(255 - np.array(fill, np.uint8), (height, width, 3)).copy()
        if rng.random() < 0.5:
            crop = rng.integers(0, 256, crop.shape, dtype=np.uint8)
        columns = trimming.columns_of(crop, preprocessing)
        prepared = prepare(crop, image_size=grid * patch_size, preprocessing=preprocessing)
        assert (left_away(trimming, prepared, columns) == fill).all(), (height, width)
        trimmed += columns < grid
    assert trimmed > 30 or grid < 3


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("grid", "patch_size"), GRIDS[:3])
def test_no_column_of_padding_is_kept_without_need(grid: int, patch_size: int, interpolation: Any) -> None:
    """One column less on each side would cut pixels of the person, or those the filter may mix with them."""
    trimming, black = every_width(grid, patch_size), Preprocessing(interpolation=interpolation)
    for height, width in sizes(seed=3, count=120):
        crop = np.full((height, width, 3), 255, np.uint8)
        columns = trimming.columns_of(crop, black)
        prepared = prepare(crop, image_size=grid * patch_size, preprocessing=black)
        coloured = np.flatnonzero(prepared.any(axis=(0, 2)))
        if columns == trimming.columns[0] or not len(coloured):
            continue
        beside = min(coloured[0], prepared.shape[1] - 1 - coloured[-1])  # pixels of padding, on the narrower side
        # At the end of the filter's reach its weight may round to nothing, or be negative and end at black.
        reach = 1 + math.ceil(2 * max(1.0, prepared.shape[1] / max(height, width)))
        cut = (grid - columns) // 2 * patch_size
        assert cut + patch_size > beside - reach, (height, width)


def test_the_width_follows_from_the_size_and_not_from_the_pixels() -> None:
    rng = np.random.default_rng(8)
    for height, width in sizes(seed=5, count=60):
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        padded = noise.copy()
        padded[:, : width // 3] = padded[:, width - width // 3 :] = 0  # a crop that was padded before
        found = {SIXTEEN.columns_of(crop, Preprocessing()) for crop in (noise, padded, np.zeros_like(noise))}
        assert len(found) == 1


@pytest.mark.parametrize(("ratio", "columns"), [(2, 10), (2.5, 8), (3, 6), (4, 6), (1.5, 16), (1, 16), (0.5, 16)])
def test_common_shapes_of_people(ratio: float, columns: int) -> None:
    for height in (150, 300, 600):
        crop = np.zeros((height, round(height / ratio), 3), np.uint8)
        assert SIXTEEN.columns_of(crop, Preprocessing()) == columns


@pytest.mark.parametrize("interpolation", FILTERS)
def test_extreme_strips(interpolation: Any) -> None:
    grey = Preprocessing(fill=(9, 90, 190), interpolation=interpolation)
    tall, wide = np.full((100_000, 1, 3), 255, np.uint8), np.full((1, 100_000, 3), 255, np.uint8)
    assert (SIXTEEN.columns_of(tall, grey), SIXTEEN.columns_of(wide, grey)) == (6, 16)
    prepared = prepare(tall, image_size=224, preprocessing=grey)
    assert (left_away(SIXTEEN, prepared, 6) == grey.fill).all()
    assert (left_away(every_width(16, 14), prepared, every_width(16, 14).columns_of(tall, grey)) == grey.fill).all()


def test_the_colour_of_the_padding_plays_no_role_and_crops_without_padding_are_read_whole() -> None:
    for height, width in sizes(seed=6, count=60):
        crop = np.zeros((height, width, 3), np.uint8)
        black = SIXTEEN.columns_of(crop, Preprocessing())
        assert SIXTEEN.columns_of(crop, Preprocessing(fill=(200, 3, 90))) == black
        assert SIXTEEN.columns_of(crop, Preprocessing(pad="none")) == 16
        assert columns_read(crop, None, Preprocessing()) == 0


def test_as_many_columns_go_on_the_left_as_on_the_right() -> None:
    numbered = np.broadcast_to(np.arange(224, dtype=np.uint8)[:, None], (2, 224, 224, 3))
    for columns in SIXTEEN.columns:
        read = SIXTEEN.trim(numbered, columns)
        assert read.shape == (2, 224, 14 * columns, 3)
        assert int(read[0, 0, 0, 0]) == 223 - int(read[0, 0, -1, 0])
        assert np.shares_memory(read, numbered)


def test_batches_have_one_width_each_and_hold_every_crop_once() -> None:
    rng = np.random.default_rng(4)
    for size in (1, 2, 7, 64):
        columns = rng.choice([0, 6, 8, 10, 16], size=int(rng.integers(0, 90))).tolist()
        batches = batches_by_columns(columns, size)
        assert sorted(row for rows in batches for row in rows) == list(range(len(columns)))
        assert all(len({columns[row] for row in rows}) == 1 and rows == sorted(rows) for rows in batches)
        assert [rows[0] for rows in batches] == sorted(rows[0] for rows in batches)
        assert sorted(map(len, batches)) == sorted(  # as few batches as there can be
            min(size, columns.count(width) - start)
            for width in set(columns)
            for start in range(0, columns.count(width), size)
        )
    assert batches_by_columns([], 8) == []


def test_default_widths_fit_every_grid() -> None:
    assert (default_columns(16), default_columns(8)) == ((6, 8, 10, 16), (4, 6, 8))
    for grid in range(1, 60):
        columns = default_columns(grid)
        assert wrong_columns(columns, grid) is None
        assert all(width >= math.ceil(3 * grid / 8) for width in columns)


WRONG = [(1, 4), (4, 2), (2,), (2, 2, 4), (0, 4), (2, 6), (-2, 4), (2, 4, 8)]


@pytest.mark.parametrize("columns", [*WRONG, (2.0, 4), (True, 4)])
def test_wrong_widths_of_a_checkpoint_are_refused_in_one_line(columns: tuple[Any, ...]) -> None:
    values = dataclasses.asdict(tiny_architecture(26))
    assert Architecture.from_dict({**values, "columns": [2, 4]}).columns == (2, 4)
    with pytest.raises(CheckpointError, match=r"columns .*ascending.* 4") as refused:
        Architecture.from_dict({**values, "columns": columns})
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        *({"padding": "trimmed", "columns": list(columns)} for columns in WRONG),
        {"padding": "trimmed"},
        {"padding": "trimmed", "columns": []},
        {"padding": "full", "columns": [2, 4]},
        {"columns": [2, 4]},
        {"padding": "trimmed", "columns": [2.5, 4]},
        {"padding": "trimmed", "columns": "24"},
    ],
)
def test_wrong_widths_of_a_manifest_are_refused_in_one_line(
    bundle_dir: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = shutil.copytree(bundle_dir, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "padding": "trimmed", "columns": [2, 4]}))
    assert Bundle.open(folder).trimming == Trimming(columns=(2, 4), patch_size=8)
    left = {key: value for key, value in manifest.items() if key not in ("padding", "columns")}
    (folder / "manifest.json").write_text(json.dumps({**left, **changes}))
    with pytest.raises(BundleError, match="columns") as refused:
        Bundle.open(folder)
    assert "\n" not in str(refused.value)
