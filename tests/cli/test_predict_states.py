"""`seqpar predict`: states and probabilities, in text and JSON, and how pictures are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.run import run

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli import predict
from seqpar_deploy.images import read_image
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import sample_crops

pytestmark = pytest.mark.slow

CROPS = [str(path) for path in sample_crops()][:2]


def write(folder: Path, text: str) -> Path:
    (folder / "t.toml").write_text(f"format = 1\n{text}")
    return folder / "t.toml"


def test_json_has_a_probability_and_a_state_of_every_attribute(bundle_dir: Path, tmp_path: Path) -> None:
    names = [attribute.name for attribute in Bundle.open(bundle_dir).label_set.attributes]
    plain = [json.loads(x) for x in run("seqpar", "predict", *CROPS, "-b", bundle_dir, "--json").stdout.splitlines()]
    for row in plain:
        assert list(row["probabilities"]) == list(row["states"]) == names
        assert all(0 <= value <= 1 and value == round(value, 6) for value in row["probabilities"].values())
        emitted = {attribute["name"] for attribute in row["attributes"]}
        assert {name for name, state in row["states"].items() if state == "yes"} == emitted

    path = write(tmp_path, f'default = {{}}\n[attributes]\n"{names[0]}" = 0\n"{names[-1]}" = {{no = 1}}\n')
    done = run("seqpar", "predict", *CROPS, "-b", bundle_dir, "--json", "--thresholds", path)
    for row, before in zip(map(json.loads, done.stdout.splitlines()), plain, strict=True):
        assert row["probabilities"] == before["probabilities"]
        assert row["states"][names[0]] == "yes"
        assert row["states"][names[-1]] == "no"
        assert {row["states"][name] for name in names[1:-1]} == {"unknown"}


def test_the_line_has_what_is_yes_and_then_what_is_unknown(bundle_dir: Path, tmp_path: Path) -> None:
    names = [attribute.name for attribute in Bundle.open(bundle_dir).label_set.attributes]
    path = write(tmp_path, f'default = {{no = 1}}\n[attributes]\n"{names[0]}" = 0\n"{names[7]}" = {{}}\n')
    for line in run("seqpar", "predict", *CROPS, "-b", bundle_dir, "--thresholds", path).stdout.splitlines():
        yes, unknown = line.split("unknown: ")
        assert yes.split()[1:-1] == [names[0]]
        assert unknown.split()[0] == names[7]
        assert 0 <= float(unknown.split()[1]) <= 1
        assert not any(name in line for name in (names[8], names[-1]))
    never = write(tmp_path, "default = {no = 1}\n")
    for line in run("seqpar", "predict", *CROPS, "-b", bundle_dir, "--thresholds", never).stdout.splitlines():
        assert "unknown" not in line
        assert "(no attributes)" in line


@pytest.mark.parametrize("text", ["[attributes]\nHta = 0.5\n", "default = 2\n", None])
def test_a_bad_file_is_refused_before_pictures_are_read(bundle_dir: Path, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "t.toml" if text is None else write(tmp_path, text)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    done = run("seqpar", "predict", bad, "-b", bundle_dir, "--thresholds", path, code=2)
    assert "t.toml" in done.error  # and there is one error only
    assert done.stdout == ""


@pytest.mark.parametrize("options", [[], ["--fast-jpeg"]])
def test_pictures_are_drafts_only_if_asked(
    options: list[str], bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[int | None] = []

    def watched(path: Path, *, draft_size: int | None) -> Crop:
        wanted.append(draft_size)
        return read_image(path, draft_size=draft_size)

    monkeypatch.setattr(predict, "read_image", watched)
    done = run("seqpar", "predict", *CROPS, "-b", bundle_dir, *options)
    side = Bundle.open(bundle_dir).dimensions.image_size
    assert wanted == ([2 * side] * 2 if options else [None] * 2)
    assert len(done.stdout.splitlines()) == 2
