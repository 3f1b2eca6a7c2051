"""What tuning finds of trimmed crops, with a scripted backend whose shift is known."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.backend import FakeBackend, FakeState

from seqpar_deploy import Bundle
from seqpar_deploy.backends import open_backend
from seqpar_deploy.bench.margins import decode_along, make_reference, measure_shifts, prepare
from seqpar_deploy.bench.trimmed_tuning import TrimmedWay, measure_trimmed
from seqpar_deploy.preprocess import Crop, Trimming
from seqpar_deploy.vocab import EOS

pytestmark = pytest.mark.slow

SHADES = (1, 3, 8, 20, 60, 90, 150, 220)  # per crop: the margin of the choice with all padding, in hundredths
TWO_OF_FOUR = Trimming(columns=(2, 4), patch_size=8)


class ByWidth(FakeBackend):
    """Returns attribute 5 with a margin of the crop's shade over 6, less `noise` for trimmed crops. Then ends."""

    def __init__(self, noise: float) -> None:
        def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
            scores = np.full(29, -9.0, dtype=np.float32)
            if len(tokens) > 1:
                scores[EOS] = 0
            else:
                scores[5], scores[6] = abs(crop) / 100 - (noise if crop < 0 else 0), 0
            return scores

        super().__init__(script)

    def encode(self, crops: Any) -> FakeState:
        sign = 1 if crops.shape[2] == 32 else -1
        return FakeState([sign * int(crop[16, crops.shape[2] // 2, 0]) for crop in crops])


def ignored(_done: int, _total: int) -> None:
    """Nobody watches."""


def measured(bundle: Bundle, backend: Any, crops: list[Crop], seconds: float = 1.0) -> TrimmedWay | None:
    reference = make_reference(bundle, backend, prepare(bundle, crops), ignored)
    return measure_trimmed(bundle, backend, crops, reference, seconds, ignored)


def people(shape: tuple[int, int]) -> list[Crop]:
    return [np.full((*shape, 3), shade, np.uint8) for shade in SHADES]


def test_narrow_crops_below_the_measured_shift_would_run_again(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    found = measured(bundle, ByWidth(0.05), people((90, 24)))
    assert found is not None
    assert found.fallback_margin == pytest.approx(0.05, abs=1e-3)
    assert (found.different, found.different_after_fallback) == (2, 0)  # shades 1 and 3
    assert (found.narrow_share, found.fallback_share) == (1, pytest.approx(3 / 8))
    assert found.expected_seconds == pytest.approx(found.seconds + 3 / 8)
    assert (found.columns, found.full_seconds) == ((2, 4), 1.0)
    assert "native, trimmed" in found.row()[0]
    assert "38%" in found.text()


def test_wide_crops_are_exact_and_do_not_hide_the_shift(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    found = measured(bundle, ByWidth(0.05), people((90, 24)) + 3 * people((60, 60)))
    assert found is not None
    assert found.fallback_margin == pytest.approx(0.05, abs=1e-3)
    assert (found.narrow_share, found.fallback_share) == (1 / 4, pytest.approx(3 / 32))


def test_models_without_padding_to_save_are_not_measured(bundle_dir: Path, tmp_path: Path) -> None:
    bundle, narrow = Bundle.open(bundle_dir), people((90, 24))
    assert measured(bundle, ByWidth(0), narrow) is not None
    assert measured(bundle, ByWidth(0), people((60, 60))) is None
    assert measured(dataclasses.replace(bundle, padding="trimmed", columns=(2, 4)), ByWidth(0), narrow) is None
    folder = shutil.copytree(bundle_dir, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"]["encoder"]["inputs"][0]["shape"][2] = 32
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert measured(Bundle.open(folder), ByWidth(0), narrow) is None


def test_a_trimmed_bundle_is_measured_as_it_reads_crops(bundle_dir: Path, crops: list[Crop]) -> None:
    """Of mixed widths, in the order of the crops; a bundle with all padding differs from it."""
    full = Bundle.open(bundle_dir)
    trimmed = dataclasses.replace(full, padding="trimmed", columns=(2, 4))
    mixed = [*crops[:6], np.full((40, 90, 3), 99, np.uint8), *crops[6:9], np.full((50, 50, 3), 9, np.uint8)]
    prepared = prepare(trimmed, mixed)
    assert {batch.shape[2] for _, batch in prepared.batches(3)} == {16, 32}
    assert sorted(row for rows, _ in prepared.batches(3) for row in rows) == list(range(11))
    backend = open_backend(trimmed, "onnxruntime")
    reference = make_reference(trimmed, backend, prepared, ignored)
    for row in range(11):
        alone = make_reference(trimmed, backend, prepare(trimmed, mixed[row : row + 1]), ignored)
        assert alone.generations[0].tokens == reference.generations[row].tokens
        np.testing.assert_allclose(alone.log_probs[0], reference.log_probs[row], atol=1e-4)
    generations, log_probs = decode_along(trimmed, backend, prepared, reference, ignored)
    assert [one.tokens for one in generations] == [one.tokens for one in reference.generations]
    assert measure_shifts(log_probs, reference).margin < 1e-3
    _, others = decode_along(full, backend, prepare(full, mixed), reference, ignored)
    assert measure_shifts(others, reference).margin > 1e-2
    assert prepare(full, mixed, TWO_OF_FOUR).columns == prepared.columns
