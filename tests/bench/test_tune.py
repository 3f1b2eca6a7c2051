"""Tuning on scripted backends, whose shift is known, and once on real ones."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.backend import FakeBackend

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.bench import tune as tuning_module
from seqpar_deploy.bench.tune import refit_drafts, tune
from seqpar_deploy.bundle import TUNED
from seqpar_deploy.calibration.maps import probability
from seqpar_deploy.calibration.sidecar import (
    BINS,
    AttributeCalibration,
    Calibration,
    FittingData,
    save_calibration,
)
from seqpar_deploy.cli.main import app
from seqpar_deploy.decoding.drafts import load_head, save_head
from seqpar_deploy.errors import BackendError, BackendUnavailableError
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.tuned import load_tuned
from seqpar_deploy.vocab import EOS

pytestmark = pytest.mark.slow

SHADES = (1, 3, 8, 20, 60, 90, 150, 220)  # per crop: the margin of the choice in native precision, in hundredths


def scripted(noise: float = 0.0) -> FakeBackend:
    """Returns attribute 5 with a margin of the crop's shade over 6, less the noise; then ends."""

    def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
        scores = np.full(29, -9.0, dtype=np.float32)
        if len(tokens) > 1:
            scores[EOS] = 0
        else:
            scores[5], scores[6] = crop / 100 - noise, 0
        return scores

    return FakeBackend(script)


@pytest.fixture
def shades() -> list[Crop]:
    return [np.full((32, 32, 3), shade, np.uint8) for shade in SHADES]


def on(monkeypatch: pytest.MonkeyPatch, backends: dict[tuple[str, str], Any]) -> None:
    """Make these the only backends; an exception among them is raised when it is opened."""

    def open_backend(_bundle: Bundle, name: str, *, compute_precision: str = "native", **_: Any) -> Any:
        backend = backends.get((name, compute_precision), BackendError("not here"))
        if isinstance(backend, Exception):
            raise backend
        return backend

    def require_parity(_bundle: Bundle, backend: FakeBackend) -> None:
        if backend.row_steps:
            raise BackendError("fails seqpar parity")

    monkeypatch.setattr(tuning_module, "backends_for", lambda _bundle: sorted({name for name, _ in backends}))
    monkeypatch.setattr(tuning_module, "open_backend", open_backend)
    monkeypatch.setattr(tuning_module, "SETTLE", 0)
    monkeypatch.setattr(tuning_module, "_require_parity", require_parity)
    monkeypatch.setattr(tuning_module, "_seconds", lambda _b, backend, _c, _s: backend.cost)


def costing(seconds: float, backend: FakeBackend) -> FakeBackend:
    backend.cost = seconds  # type: ignore[attr-defined]
    return backend


def test_the_fallback_margin_is_the_shift(
    bundle_dir: Path, shades: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, {("a", "native"): costing(8, scripted()), ("a", "int8"): costing(1, scripted(noise=0.05))})
    found = tune(Bundle.open(bundle_dir), shades)
    quick = found.configurations[0]
    assert (quick.compute_precision, quick.different, quick.different_after_fallback) == (
        "int8",
        2,
        0,
    )  # 1 and 3 hundredths
    assert quick.fallback_margin == pytest.approx(0.05, abs=1e-3)
    assert quick.fallback_share == pytest.approx(3 / 8)  # those, and 8, which the noise brings to 3
    assert quick.expected_seconds == pytest.approx(1 + 3 / 8 * 8)
    assert (found.choice.backend, found.choice.compute_precision, found.choice.fallback_margin) == (
        "a",
        "int8",
        quick.fallback_margin,
    )
    assert found.skipped == ("a, bf16: not here",)


def doubting(noise: float = 0.0) -> FakeBackend:
    """Returns attribute 5, then ends. The log-odds of attribute 9 are -1.474 less the crop's shade, plus the noise.

    The second best token is another, so no margin shifts.
    """

    def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
        scores = np.full(29, -12.0, dtype=np.float32)
        if len(tokens) > 1:
            scores[EOS], scores[3], scores[9] = 0, -0.5, -1 - crop / 100 + noise
        else:
            scores[5] = 0
        return scores

    return FakeBackend(script)


def test_the_fallback_margin_covers_the_log_odds_of_probabilities(
    bundle_dir: Path, shades: list[Crop], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A threshold lies at log-odds of -1.46, which the noise carries crops 1 and 3 over."""
    bundle = Bundle.open(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    one = AttributeCalibration(
        slope=1.0, offset=0.0, map="own", positives=9, negatives=9, distribution=(0,) * BINS, yes=0.5, no=0.5
    )
    attributes = {attribute.name: one for attribute in bundle.label_set.attributes}
    limit = float(probability(np.array(-1.46)))
    attributes[bundle.label_set.attributes[9 - 3].name] = dataclasses.replace(one, yes=limit, no=limit)
    data = FittingData(name="some", split="all", sha256="0", people=9, groups=9)
    save_calibration(bundle, Calibration(data=data, rule={}, attributes=attributes))

    on(monkeypatch, {("a", "native"): costing(8, doubting()), ("a", "int8"): costing(1, doubting(noise=0.05))})
    quick = tune(bundle, shades).configurations[0]
    assert quick.token_shift == pytest.approx(0, abs=1e-6)
    assert quick.log_odds_shift == pytest.approx(0.05, abs=1e-4)
    assert quick.fallback_margin == quick.log_odds_shift
    assert (quick.different, quick.different_after_fallback) == (2, 0)
    assert quick.fallback_share == pytest.approx(3 / 8)  # those, and 8, which the noise brings to 4.4


def test_a_configuration_that_is_slower_with_its_fallback_is_not_chosen(
    bundle_dir: Path, shades: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, {("a", "native"): costing(3, scripted()), ("a", "int8"): costing(2.5, scripted(noise=0.3))})
    found = tune(Bundle.open(bundle_dir), shades)
    assert (found.choice.compute_precision, found.choice.fallback_margin) == ("native", None)
    assert [candidate.compute_precision for candidate in found.configurations] == ["native", "native", "int8", "int8"]


def test_backends_that_fail_parity_are_skipped(
    bundle_dir: Path, shades: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = scripted()
    broken.row_steps.append(1)
    on(monkeypatch, {("a", "native"): broken, ("a", "int8"): scripted(), ("b", "native"): costing(1, scripted())})
    found = tune(Bundle.open(bundle_dir), shades)
    assert found.choice.backend == "b"
    assert found.skipped[0].startswith("a, native: fails seqpar parity")
    assert any(line.startswith("a, int8: ") and "native" in line for line in found.skipped)
    on(monkeypatch, {("a", "native"): broken})
    with pytest.raises(BackendUnavailableError, match=r"no backend runs .*: a, native: fails"):
        tune(Bundle.open(bundle_dir), shades)


class Pooled(FakeBackend):
    """Draws attribute 5 or 6 for bright and dark crops, and returns the shade as the pooled features."""

    def __init__(self) -> None:
        super().__init__(self.script)

    @staticmethod
    def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
        scores = np.full(29, -9.0, dtype=np.float32)
        scores[EOS if len(tokens) > 1 else 5 if crop > 100 else 6] = -0.01
        return scores

    def encode(self, crops: Crop) -> Any:
        state = super().encode(crops)
        state.pooled = crops[:, 0, 0].astype(np.float32) / 255  # type: ignore[attr-defined]
        return state


def test_drafts_are_refitted_on_the_users_crops(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    monkeypatch.setattr(tuning_module, "open_backend", lambda _bundle: Pooled())
    crops = [np.full((32, 32, 3), shade, np.uint8) for shade in np.random.default_rng(1).permutation(200)]
    assert refit_drafts(bundle, crops[:30]) is None
    head = refit_drafts(bundle, crops)
    assert head is not None
    assert (head.crops, head.greedy_calls) == (200, 2)
    assert head.calls < 1.2
    save_head(bundle, head)
    used = load_head(bundle)
    assert used is not None
    assert used.draft(np.full((1, 3), 0.9, np.float32)) == [(5, EOS)]
    assert refit_drafts(bundle, crops) is None  # the one in use is as good


def test_the_command_keeps_its_choice_beside_the_bundle(
    int8_bundle_dir: Path,
    crops: list[Crop],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning_module, "SETTLE", 0)
    bundle = Bundle.open(shutil.copytree(int8_bundle_dir, tmp_path / "bundle"))
    with Recognizer.from_bundle(bundle.path) as recognizer:
        exact = [prediction.tokens for prediction in recognizer.predict(crops)]
    words = ["tune", str(bundle.path), "--crops", "100", "--json", "--output", str(tmp_path / "tuning.json")]
    app(words, standalone_mode=False)
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert values == json.loads((tmp_path / "tuning.json").read_text())
    assert (values["crops"], values["bundle"]) == (100, bundle.digest)
    assert {c["compute_precision"] for c in values["configurations"]} >= {"native", "int8"}
    assert f"wrote {bundle.path / TUNED}" in printed.err
    choice = load_tuned(bundle)
    assert choice is not None
    assert values["choice"]["backend"] == choice.backend
    with Recognizer.from_bundle(bundle.path) as recognizer:
        assert [prediction.tokens for prediction in recognizer.predict(crops)] == exact
