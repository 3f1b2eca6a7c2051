"""Bundles that withhold attributes: nothing shows them, and backends are still compared with the checkpoint."""

from __future__ import annotations

import collections
import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MadeOnce
from fakes.modules import OnDevice

from seqpar_deploy import Bundle, LabelSetError, Recognizer, WithoutAttributes
from seqpar_deploy.backends import open_backend
from seqpar_deploy.backends.verification import difference_from_golden
from seqpar_deploy.bundle import GOLDEN, MODEL_CARD, WITHHOLDING
from seqpar_deploy.errors import BundleFormatError
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import Recipe
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import reference_from_golden
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.serving.triton.config import ModelOptions, config_text
from seqpar_deploy.serving.triton.golden import golden_difference
from seqpar_deploy.vocab import FIRST_ATTRIBUTE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def names(bundle_dir: Path) -> tuple[str, ...]:
    """The two attributes that the model emits most often on the golden crops."""
    reference = reference_from_golden(Bundle.open(bundle_dir))
    emitted = collections.Counter(
        name for crop in range(len(reference.crops)) for name in reference.attribute_names(reference.sequence(crop))
    )
    return tuple(name for name, _ in emitted.most_common(2))


@pytest.fixture(scope="module")
def withheld(made_once: MadeOnce, checkpoint_file: Path, fp32_recipe: Recipe, names: tuple[str, ...]) -> Bundle:
    without = [name.upper() for name in names]
    return Bundle.open(
        made_once("withheld", lambda out: export_bundle(checkpoint_file, fp32_recipe, out, without=without))
    )


def places_of(bundle: Bundle) -> list[int]:
    return [place for place, one in enumerate(bundle.label_set.attributes) if one.name in bundle.withheld]


def test_golden_data_and_card_do_not_have_them(withheld: Bundle, bundle_dir: Path, names: tuple[str, ...]) -> None:
    full, golden = Bundle.open(bundle_dir).golden(), withheld.golden()
    tokens = [FIRST_ATTRIBUTE + place for place in places_of(withheld)]
    assert np.isin(full["tokens"], tokens).any(axis=1).mean() > 0.3  # the test would see them
    for name in ("tokens", "beam_tokens"):
        assert not np.isin(golden[name], tokens).any()
    lengths = (golden["tokens"][:, 1:] != 2).sum(axis=1)
    for rows, length in zip(golden["log_probs"], lengths, strict=True):
        assert np.isneginf(rows[:length][:, tokens]).all()
        assert np.exp(rows[:length]).sum(axis=-1) == pytest.approx(1, abs=1e-4)  # nothing tells the missing share
    assert np.isneginf(golden["suspect_log_probs"][:, tokens]).all()
    assert not set(names) & set(golden["attributes"].tolist())
    assert [golden["attributes"][place] for place in places_of(withheld)] == ["", ""]
    for file in (GOLDEN, MODEL_CARD):
        content = (withheld.path / file).read_bytes()
        assert not any(name.encode() in content for name in names)
    assert "2 more are withheld" in (withheld.path / MODEL_CARD).read_text()
    assert not any(name in json.dumps(withheld.manifest["parity"]) for name in names)


def test_every_opening_withholds_them(
    withheld: Bundle, bundle_dir: Path, names: tuple[str, ...], crops: list[Crop], tmp_path: Path
) -> None:
    assert withheld.manifest["format"] == WITHHOLDING
    assert set(withheld.withheld) == set(names)
    thresholds = tmp_path / "thresholds.toml"
    thresholds.write_text(f'format = 1\n[attributes]\n"{names[0]}" = 0.3\n')  # a file of before still fits
    with Recognizer.from_bundle(bundle_dir) as recognizer:
        expected = WithoutAttributes(recognizer, names).predict(crops)
    with Recognizer.from_bundle(withheld.path) as recognizer:
        assert recognizer.label_set == withheld.shown
        found = recognizer.predict(crops)
        assert recognizer.predict(crops, drafts=[one.tokens for one in found]) == found
    assert found == expected
    with Recognizer.from_bundle(withheld.path, thresholds=thresholds) as recognizer:
        assert recognizer.thresholds is not None
        assert len(recognizer.thresholds.yes) == len(withheld.shown)
        assert len(recognizer.predict(crops[:1])[0].states) == len(withheld.shown)


def test_backends_are_compared_in_all_that_is_shown(withheld: Bundle) -> None:
    reference, tolerances = reference_from_golden(withheld), tolerances_of(withheld)
    with closing(open_backend(withheld, "onnxruntime")) as backend:
        report = check_parity(backend, reference, tolerances, bundle=withheld)
        assert report.breaches == []
        assert report.identical == len(reference.crops)
        shown = next(place for place in range(len(withheld.label_set)) if place not in places_of(withheld))
        wrong = check_parity(Shifted(backend, FIRST_ATTRIBUTE + shown), reference, tolerances, bundle=withheld)  # type: ignore[arg-type]
    assert wrong.breaches


class Shifted:
    """A backend of which one token is a little too likely."""

    def __init__(self, backend: Any, token: int) -> None:
        self._backend, self._token = backend, token

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, state: Any, tokens: Any) -> Any:
        output = self._backend.step(state, tokens)
        log_probs = output.log_probs.copy()
        log_probs[..., self._token] += 0.5
        return dataclasses.replace(output, log_probs=log_probs)


def test_devices_reproduce_what_is_shown(withheld: Bundle, checkpoint_file: Path) -> None:
    model = build_model(load_checkpoint(checkpoint_file), withheld.label_set)
    assert difference_from_golden(withheld, OnDevice(withheld, model)) is None
    assert "golden crop" in (difference_from_golden(withheld, OnDevice(withheld, model, axis=1, by=1)) or "")


def test_a_server_has_and_checks_what_is_shown(withheld: Bundle, names: tuple[str, ...]) -> None:
    with Recognizer.from_bundle(withheld.path) as recognizer:
        assert golden_difference(recognizer) is None
    text = config_text(
        "seqpar", 1, withheld, label_set=withheld.shown, thresholds=None, options=ModelOptions(), warm_ups=[]
    )
    assert not any(name in text for name in names)


def test_a_wrong_name_ends_the_export_before_its_work(
    checkpoint_file: Path, fp32_recipe: Recipe, tmp_path: Path
) -> None:
    for without, fact in ((["nobody"], "'nobody'"), (["*"], "must be left")):
        with pytest.raises(LabelSetError, match=fact):
            export_bundle(checkpoint_file, fp32_recipe, tmp_path / "out", without=without)
    assert not list(tmp_path.iterdir())


def test_a_manifest_withholds_attributes_of_its_label_set(withheld: Bundle) -> None:
    for names, fact in ((["nobody"], "nobody"), ([one.name for one in withheld.label_set.attributes], "all of them")):
        with pytest.raises(BundleFormatError, match=fact):
            Bundle.from_manifest(withheld.path, {**withheld.manifest, "withheld": names})
