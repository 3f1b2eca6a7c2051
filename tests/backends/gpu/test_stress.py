"""A few hundred of the schedules that `benchmarks/gpu_stress.py` runs by the ten thousand."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest
from fakes.faults import FAULTS, planted
from fakes.graphs import RowByRow, run_whole, session_of
from fakes.stress import Material, run_schedule

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def material(trimmed_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(trimmed_bundle_dir, tmp_path_factory.mktemp("stress"))


def test_crops_have_all_widths(material: Material) -> None:
    columns = [crop.shape[1] // material.bundle.dimensions.patch_size for crop in material.crops]
    assert sorted(set(columns)) == list(material.bundle.columns or ())
    assert all(len(crops) >= 2 for crops in material.of_width.values())
    assert sorted(crop for crops in material.of_width.values() for crop in crops) == list(range(len(columns)))


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_tokens_are_the_host_backends_whatever_happens(material: Material, first: int) -> None:
    counts: collections.Counter[str] = collections.Counter()
    for seed in range(first, first + 50):
        outcome = run_schedule(material, seed)
        assert outcome.reasons == [], f"benchmarks/gpu_stress.py --schedules 1 --seed {seed} runs it again"
        counts.update(outcome.counts)
    for what in ("crops", "pooled", "steps", "captures", "replays", "injected", "close", "collections"):
        assert counts[what] > 0, what


@pytest.mark.parametrize("name", FAULTS)
def test_every_mend_that_is_taken_back_is_missed(material: Material, name: str) -> None:
    with planted(name):
        showing = (seed for seed in range(1000) if run_schedule(material, seed).kinds & FAULTS[name].kinds)
        assert next(showing, None) is not None


def test_a_seed_decides_a_schedule(material: Material) -> None:
    for seed in range(10):
        first, second = run_schedule(material, seed), run_schedule(material, seed)
        assert (first.counts, len(first.reasons)) == (second.counts, len(second.reasons))


@pytest.mark.parametrize("width", [0, 1, 2])
def test_rows_run_one_by_one_say_what_a_batch_says(material: Material, width: int) -> None:
    """The stress test's graphs are the bundle's, run a row at a time."""
    row_by_row, d = RowByRow(), material.bundle.dimensions
    encoder, step = session_of(material.bundle.encoder), session_of(material.bundle.decoder_step)
    crops = {"crops": material.batch(sorted(material.of_width.values())[width][:2])}
    encoded = run_whole(encoder, ["cross_kv", "pooled"], crops)
    found = row_by_row(encoder, ["cross_kv", "pooled"], crops)
    assert all(np.allclose(found[name], encoded[name], atol=1e-2) for name in encoded)
    cross_kv = encoded["cross_kv"]
    self_kv = np.zeros((2 * d.layers, 2, d.heads, d.capacity, d.head_size), np.float16)
    position = np.array([0, 0])
    for tokens in ([[0], [0]], [[4, 5], [6, 7]], [[3], [2]]):
        feed = {"tokens": np.array(tokens), "position": position, "self_kv": self_kv, "cross_kv": cross_kv}
        names = ["log_probs", "next_token", "self_kv_out"]
        expected = run_whole(step, names, feed)
        for _ in range(2):  # run, and remembered
            found = row_by_row(step, names, feed)
            assert np.array_equal(found["next_token"], expected["next_token"])
            assert np.allclose(found["log_probs"], expected["log_probs"], atol=1e-2)
            assert np.allclose(found["self_kv_out"], expected["self_kv_out"], atol=1e-2)
        self_kv, position = expected["self_kv_out"], position + len(tokens[0])
    self_kv = self_kv.copy()
    self_kv[:, 1, :, -1] = np.inf  # a slot that is masked
    feed |= {"self_kv": self_kv}
    assert np.isnan(run_whole(step, ["log_probs"], feed)["log_probs"][1]).all()
    assert np.isnan(row_by_row(step, ["log_probs"], feed)["log_probs"][1]).all()
    assert np.isfinite(row_by_row(step, ["log_probs"], feed)["log_probs"][0]).all()
