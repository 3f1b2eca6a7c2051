"""`seqpar eval`: the same scores and sequences from a checkpoint and from its bundle, and how it refuses."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seqpar_deploy.cli.eval import evaluate
from seqpar_deploy.errors import CalibrationError, DatasetError, SeqparError
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow

CROPS = sample_crops()


@pytest.fixture(scope="module")
def people(label_set: LabelSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 20 sample crops with random labels, a tenth of them unknown."""
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("people") / "people.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "split", *(attribute.name for attribute in label_set.attributes)])
        for number, crop in enumerate(CROPS):
            labels = rng.choice(["1", "0", ""], size=len(label_set), p=[0.3, 0.6, 0.1])
            table.writerow([crop, "test" if number % 2 else "train", *labels])
    return path


def run(*arguments: object, code: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [Path(sys.executable).parent / "seqpar", "eval", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def scores(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


@pytest.mark.parametrize("beam", [1, 2])
def test_checkpoint_and_bundle_score_alike_on_every_backend(
    checkpoint_file: Path, bundle_dir: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], beam: int
) -> None:
    reference = tmp_path / "checkpoint.jsonl"
    evaluate(checkpoint_file, people, backend="torch", beam=beam, predictions=reference, output=tmp_path / "torch.json")
    wanted = scores(tmp_path / "torch.json")
    assert 0 < wanted["metrics"]["f1"] < 1
    assert wanted["model"]["kind"] == "checkpoint"
    for backend in ("onnxruntime", "openvino"):
        out = tmp_path / f"{backend}.json"
        evaluate(bundle_dir, people, backend=backend, beam=beam, batch_size=7, against=reference, output=out)
        assert f"20 sequences equal those in {reference}" in capsys.readouterr().out
        got = scores(out)
        assert got["metrics"] == wanted["metrics"]
        assert got["against"] == {"file": str(reference), "different": 0}
        assert got["backend"]["name"] == backend


def test_it_prints_and_writes_scores_of_each_attribute(
    bundle_dir: Path, people: Path, label_set: LabelSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, picture = tmp_path / "new" / "scores.json", tmp_path / "scores.png"
    evaluate(bundle_dir, people, split="test", output=result, picture=picture)
    out = capsys.readouterr().out
    values = scores(result)
    assert values["data"] == {
        "name": "people",
        "split": "test",
        "people": 10,
        "known_share": values["data"]["known_share"],
    }
    assert 0.8 < values["data"]["known_share"] < 1
    assert list(values["metrics"]["attributes"]) == [attribute.name for attribute in label_set.attributes]
    rows: dict[str, list[str]] = {}
    for line in filter(str.strip, out.splitlines()):  # the published metrics come first
        rows.setdefault(line.split()[0], line.split())
    for name, row in values["metrics"]["attributes"].items():
        assert [int(cell) for cell in rows[name][1:4]] == [row["positives"], row["known"], row["predicted"]]
    overall = [f"{100 * values['metrics'][name]:.2f}" for name in ("ma", "accuracy", "precision", "recall", "f1")]
    assert rows["this"] == ["this", "model", *overall]
    assert "paper" not in rows  # these are not PA100K's people
    assert values["images_per_second"] > 0
    assert values["machine"]["cores"] >= 1
    with Image.open(picture) as drawn:
        assert drawn.width == 1200
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "scores.png"]


def test_it_prints_json(bundle_dir: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(bundle_dir, people, limit=3, as_json=True, output=tmp_path / "scores.json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == scores(tmp_path / "scores.json")
    assert printed["data"]["people"] == 3


def test_it_scores_probabilities_and_states(
    bundle_dir: Path, people: Path, label_set: LabelSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, strict = tmp_path / "plain.json", tmp_path / "strict.json"
    thresholds, picture = tmp_path / "thresholds.toml", tmp_path / "reliability.png"
    evaluate(bundle_dir, people, output=plain, reliability=picture)
    before = scores(plain)
    found = before["probabilities"]
    assert found["calibrated"] is False
    assert found["states"]["f1"] == before["metrics"]["f1"]
    assert found["coverage"]["value"] == 1
    assert list(found["attributes"]) == [attribute.name for attribute in label_set.attributes]
    assert found["nll"]["low"] < found["nll"]["value"] < found["nll"]["high"]
    with Image.open(picture) as drawn:
        assert drawn.width == 1200

    thresholds.write_text("format = 1\ndefault = {yes = 0.9, no = 0.02}\n")
    evaluate(bundle_dir, people, thresholds=thresholds, output=strict)
    after = scores(strict)
    assert after["metrics"] == before["metrics"]
    assert after["probabilities"]["nll"] == found["nll"]
    assert after["probabilities"]["coverage"]["value"] < 1
    assert f"{100 * after['probabilities']['states']['ma']:.2f}" in capsys.readouterr().out

    thresholds.write_text("format = 1\ndefault = 2\n")
    with pytest.raises(CalibrationError, match="0 to 1, got 2"):
        evaluate(bundle_dir, people, thresholds=thresholds)


def test_limit_takes_the_first_people(
    bundle_dir: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = tmp_path / "three.jsonl"
    evaluate(bundle_dir, people, limit=3, predictions=predictions)
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"crops/{crop.name}" for crop in CROPS[:3]]

    # An earlier run with another result for the second person, then one over other people.
    rows[1]["tokens"] = rows[1]["tokens"][::-1]
    predictions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    capsys.readouterr()
    evaluate(bundle_dir, people, limit=3, against=predictions)
    assert re.search(rf"1 of 3 .*{predictions}.*{rows[1]['image']}", capsys.readouterr().out)
    with pytest.raises(DatasetError, match=r"4 people .*got 3"):
        evaluate(bundle_dir, people, limit=4, against=predictions)


def test_it_goes_on_after_pictures_that_cannot_be_read(bundle_dir: Path, people: Path) -> None:
    bad, result = people.with_name("bad.png"), people.with_name("bad.json")
    bad.write_bytes(CROPS[1].read_bytes()[:500])
    table = people.with_name("bad.csv")
    empty = people.with_name("empty.png")
    empty.touch()
    table.write_text(people.read_text().replace(str(CROPS[1]), bad.name).replace(str(CROPS[19]), empty.name))
    predictions = people.with_name("bad.jsonl")
    done = run(bundle_dir, "--data", table, "--output", result, "--predictions", predictions, "--batch-size", 1, code=2)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [name in line for name, line in zip(("bad.png", "empty.png"), errors, strict=True)] == [True, True]
    assert "2 of 20 people" in done.stdout
    values = scores(result)
    assert values["data"]["people"] == len(predictions.read_text().splitlines()) == 18
    assert len(values["unreadable"]) == 2


def test_nobody_that_can_be_read_is_one_line(bundle_dir: Path, people: Path) -> None:
    bad, table = people.with_name("text.png"), people.with_name("text.csv")
    bad.write_text("no picture")
    header, row, *_ = people.read_text().splitlines()
    table.write_text(f"{header}\n{row.replace(str(CROPS[0]), bad.name)}\n")
    with pytest.raises(DatasetError, match=r"text must have .*got none"):
        evaluate(bundle_dir, table)


@pytest.mark.parametrize("name", ["none.csv", "people.xlsx", "nowhere"])
def test_data_is_looked_for_before_the_model_is_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=name):
        evaluate(tmp_path / "no-model.pth", tmp_path / name)


def test_a_table_of_pandas_scores_as_one_of_whole_numbers(
    bundle_dir: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(csv.reader(people.read_text().splitlines()))
    words = {"1": "1.0", "0": "0.0", "": "nan"}
    table = people.with_name("pandas.csv")
    table.write_text(
        "\n".join(
            ";".join([str(number - 1) if number else "", *(words.get(cell, cell) for cell in row)])
            for number, row in enumerate(rows)
        )
    )
    for given in (people, table):
        evaluate(bundle_dir, given, limit=4, output=tmp_path / f"{given.stem}.json")
    assert scores(tmp_path / "pandas.json")["metrics"] == scores(tmp_path / "people.json")["metrics"]


def test_a_missing_picture_is_named_before_anything_runs(bundle_dir: Path, people: Path) -> None:
    table = people.with_name("gone.csv")
    table.write_text(people.read_text().replace(CROPS[2].name, "gone.png"))
    with pytest.raises(DatasetError, match=r"gone\.png"):
        evaluate(bundle_dir, table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_set": "pa100k"}, "--label-set"),
        ({"backend": "torch"}, "torch"),
        ({"beam": 0}, "beam width"),
        ({"split": "val"}, "'val'"),
        ({"against": Path("nowhere.jsonl")}, "nowhere.jsonl"),
        ({"against": CROPS[0].parent.parent / "README.md"}, "--predictions"),
        ({"output": CROPS[0] / "scores.json"}, "scores.json"),
    ],
)
def test_it_refuses_in_one_line(bundle_dir: Path, people: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SeqparError) as refused:
        evaluate(bundle_dir, people, limit=1 if "output" in options else None, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "openvino"}, "torch-cuda, got openvino"),
        ({"label_set": "peta"}, "26 .*35"),
    ],
)
def test_a_checkpoint_refuses_in_one_line(
    checkpoint_file: Path, people: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SeqparError, match=message):
        evaluate(checkpoint_file, people, **options)
    with pytest.raises(SeqparError, match=r"none\.pth"):
        evaluate(checkpoint_file.with_name("none.pth"), people)
