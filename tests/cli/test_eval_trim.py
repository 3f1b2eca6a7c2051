"""`seqpar eval --trim`: a model redefined as trimmed beside the model as it is."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from conftest import tiny_architecture

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli.eval import evaluate
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.preprocess import Preprocessing
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people(label_set: LabelSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 20 sample crops with random labels."""
    rng = np.random.default_rng(6)
    path = tmp_path_factory.mktemp("people") / "people.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", *(attribute.name for attribute in label_set.attributes)])
        table.writerows([crop, *rng.integers(0, 2, len(label_set))] for crop in sample_crops())
    return path


def checkpoint(folder: Path, label_set: LabelSet, columns: tuple[int, ...] = ()) -> Path:
    """Write the checkpoint of the other tests, made for these widths."""
    model = random_model(dataclasses.replace(tiny_architecture(len(label_set)), columns=columns), seed=3)
    save_checkpoint(folder / "widths.safetensors", model, label_set, dtype=torch.float32)
    return folder / "widths.safetensors"


def run(model: Path, people: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the values and the lines of the predictions file."""
    evaluate(model, people, output=folder / "scores.json", predictions=folder / "predictions.jsonl", **options)
    return json.loads((folder / "scores.json").read_text()), (folder / "predictions.jsonl").read_text().splitlines()


def test_it_scores_the_redefined_model_and_compares_it_with_the_model_as_it_is(
    checkpoint_file: Path,
    bundle_dir: Path,
    people: Path,
    label_set: LabelSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full, of_full = run(checkpoint_file, people, tmp_path)
    made_for, of_made_for = run(checkpoint(tmp_path, label_set, (2, 4)), people, tmp_path)
    assert (full["trimming"], made_for["trimming"]) == (None, None)
    capsys.readouterr()
    for model in (checkpoint_file, bundle_dir):
        values, predictions = run(model, people, tmp_path, trim=True)
        assert predictions == of_made_for
        assert values["metrics"] == made_for["metrics"]
        cost = values["trimming"]
        assert cost["changed"] == sum(a != b for a, b in zip(of_full, of_made_for, strict=True)) > 0
        for name in ("ma", "f1"):
            assert cost["full"][name] == full["metrics"][name]
            assert cost["trimmed"][name] == made_for["metrics"][name]
            difference = cost["difference"][name]
            assert difference["value"] == pytest.approx(made_for["metrics"][name] - full["metrics"][name])
            assert difference["low"] <= difference["value"] <= difference["high"]
        printed = capsys.readouterr().out
        assert f"{cost['changed']} of 20" in printed
        assert f"{100 * cost['difference']['f1']['value']:+.2f}" in printed


def test_pictures_that_cannot_be_read_are_left_out_of_both(checkpoint_file: Path, people: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    table = tmp_path / "bad.csv"
    table.write_text(people.read_text().replace(str(sample_crops()[3]), str(tmp_path / "bad.png")))
    with pytest.raises(typer.Exit) as ended:
        run(checkpoint_file, table, tmp_path, trim=True)
    assert ended.value.exit_code == 2
    values = json.loads((tmp_path / "scores.json").read_text())
    assert values["trimming"]["people"] == values["data"]["people"] == 19
    assert [one.count("bad.png") for one in values["unreadable"]] == [1]  # of two evaluations


def without_width(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"]["encoder"]["inputs"][0]["shape"][2] = 32
    (folder / "manifest.json").write_text(json.dumps(manifest))


def trimmed(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "padding": "trimmed", "columns": [2, 4]}))


@pytest.mark.parametrize(("edit", "message"), [(without_width, "any width"), (trimmed, "not trimmed")])
def test_a_bundle_that_cannot_be_redefined_is_refused_in_one_line(
    bundle_dir: Path, people: Path, tmp_path: Path, edit: Any, message: str
) -> None:
    folder = shutil.copytree(bundle_dir, tmp_path / "bundle")
    assert Bundle.open(folder).reads_any_width
    edit(folder)
    with pytest.raises(SeqparError, match=message) as refused:
        evaluate(folder, people, trim=True)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_cannot_be_redefined_is_refused_in_one_line(
    label_set: LabelSet, people: Path, tmp_path: Path
) -> None:
    unpadded = dataclasses.replace(label_set, preprocessing=Preprocessing(pad="none"))
    for labels, columns, message in ((label_set, (2, 4), "not trimmed"), (unpadded, (), "'none'")):
        with pytest.raises(SeqparError, match=message) as refused:
            evaluate(checkpoint(tmp_path, labels, columns), people, trim=True)
        assert "\n" not in str(refused.value)
