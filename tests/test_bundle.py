"""Bundles that were damaged, altered or made by someone hostile are refused in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from seqpar_deploy import Bundle
from seqpar_deploy.bundle import (
    CALIBRATION,
    ENGINES,
    TUNED,
    TUNED_DRAFT,
    VERIFIED,
    new_bundle_dir,
)
from seqpar_deploy.errors import BundleError, BundleFormatError, BundleIntegrityError
from seqpar_deploy.files import sha256_of

SIDECARS = {CALIBRATION, TUNED_DRAFT, TUNED, VERIFIED, ENGINES}


@pytest.fixture
def copy(bundle_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_opens_and_knows_its_model(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    assert (bundle.label_set.name, bundle.precision, bundle.dimensions.capacity) == ("pa100k", "fp32", 27)
    assert bundle.manifest["parity"]["passed"]
    assert bundle.manifest["parity"]["identical"] == bundle.manifest["parity"]["crops"] == 46
    golden = bundle.golden()
    assert golden["kinds"].tolist() == ["real"] * 4 + ["rendered"] * 3 + ["adversarial"] * 18
    assert golden["crops"].shape == (25, 32, 32, 3)
    assert golden["tokens"].shape == golden["beam_tokens"].shape == (25, 27)
    assert golden["log_probs"].shape == (25, 26, 29)
    assert (bundle_dir / "golden.npz").stat().st_size < 1e6
    assert str(bundle_dir.parent) not in (bundle_dir / "manifest.json").read_text()


def test_the_manifest_lists_what_export_wrote_and_nothing_made_later(copy: Path) -> None:
    before = Bundle.open(copy)
    listed = set(before.manifest["files"])
    assert listed == {file.name for file in copy.iterdir()} - {"manifest.json"}
    assert listed.isdisjoint(SIDECARS)
    (copy / "engines").mkdir()
    for name in SIDECARS - {"engines"}:
        (copy / name).write_text("of this machine")
    assert Bundle.open(copy).digest == before.digest == sha256_of(copy / "manifest.json")


def test_keys_of_a_later_minor_version_are_ignored(copy: Path) -> None:
    edit(copy, lambda m: m.update(thresholds={"Hat": 0.5}))
    edit(copy, lambda m: m["label_set"]["attributes"][0].update(synonyms=["woman"]))
    edit(copy, lambda m: m.update(padding="trimmed", columns=[2, 4]))
    bundle = Bundle.open(copy)
    assert (bundle.padding, bundle.columns) == ("trimmed", (2, 4))
    edit(copy, lambda m: [m.pop(key) for key in ("padding", "columns")])
    bundle = Bundle.open(copy)
    assert (bundle.padding, bundle.columns) == ("full", None)


def test_graphs_carry_no_paths_of_the_machine_that_made_them(bundle_dir: Path) -> None:
    for name in ("encoder.onnx", "decoder_step.onnx"):
        assert b"seqpar_deploy/" not in (bundle_dir / name).read_bytes()
        onnx.checker.check_model(str(bundle_dir / name))


@pytest.mark.parametrize("name", ["encoder.onnx", "encoder.onnx.data", "decoder_step.onnx.data", "golden.npz"])
def test_one_flipped_bit(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleIntegrityError, match=rf"{name} .*sha256 .*, got .*export the bundle again"):
        Bundle.open(copy)


def test_truncated_and_missing_files(copy: Path) -> None:
    file = copy / "encoder.onnx.data"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleIntegrityError, match=r"\d+ bytes, got \d+"):
        Bundle.open(copy, verify=False)
    file.unlink()
    with pytest.raises(BundleIntegrityError, match="missing"):
        Bundle.open(copy, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=4), "format must be 1 to 3, got 4; update seqpar-deploy"),
        (lambda m: m.update(format="one"), "format must be 1 to 3, got 'one'"),
        (lambda m: m.update(format=0), "format must be 1 to 3, got 0"),
        (lambda m: m.update(format=True), "format must be 1 to 3, got True"),
        (lambda m: m.pop("dimensions"), "dimensions is missing"),
        (lambda m: m["dimensions"].update(heads=0), r"dimensions\.heads must be an integer >= 1, got 0"),
        (lambda m: m["dimensions"].update(capacity=30), "capacity must be 26 attributes .* got 30"),
        (lambda m: m["label_set"]["attributes"].pop(), "vocabulary must be 25 attributes .* got 29"),
        (lambda m: m["label_set"]["attributes"][3].pop("phrase"), r"label_set\.attributes\[3\]\.phrase is missing"),
        (lambda m: m["label_set"]["preprocessing"].update(pad="no"), r"label_set\.preprocessing\.pad must be .*'no'"),
        (lambda m: m.update(precision="fp8"), "precision must be one of 'fp32', 'fp16', got 'fp8'"),
        (lambda m: m.update(padding="half"), "padding must be one of 'full', 'trimmed', got 'half'"),
        (lambda m: m.update(columns=[4, 0]), r"columns\[1\] must be an integer >= 1, got 0"),
        (lambda m: m.update(padding="trimmed"), "columns must be given if padding is 'trimmed'"),
        (lambda m: m.update(columns=[2, 4]), "columns must be given if padding is 'trimmed', and only then"),
        (lambda m: m.update(padding="trimmed", columns=[1, 4]), r"columns must be .*even or odd like 4"),
        (lambda m: m.update(padding="trimmed", columns=[2]), r"columns must be .*end with 4"),
        (lambda m: m.update(batches=[]), "batches .*got none"),
        (lambda m: m["special_tokens"].update(eos=2), "special_tokens must be .*'eos': 1"),
        (lambda m: m["files"].pop("encoder.onnx"), "files must list encoder.onnx"),
        (lambda m: m["files"]["golden.npz"].pop("sha256"), r"files\.golden\.npz\.sha256 is missing"),
    ],
)
def test_malformed_manifests(copy: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(copy, change)
    with pytest.raises(BundleFormatError, match=message):
        Bundle.open(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "..\\outside"])
def test_listed_files_stay_inside(copy: Path, name: str) -> None:
    edit(copy, lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(BundleIntegrityError, match="outside the bundle"):
        Bundle.open(copy)


def test_external_data_stays_inside(copy: Path) -> None:
    graph = onnx.load(copy / "encoder.onnx", load_external_data=False)
    entry = next(e for t in graph.graph.initializer for e in t.external_data if e.key == "location")
    entry.value = "../../../etc/passwd"
    (copy / "encoder.onnx").write_bytes(graph.SerializeToString())
    file = copy / "encoder.onnx"
    edit(copy, lambda m: m["files"].update({file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}}))
    with pytest.raises(BundleIntegrityError, match=r"weights .*'\.\./\.\./\.\./etc/passwd'.* manifest"):
        Bundle.open(copy)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match="does not exist"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleFormatError, match=r"without manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleFormatError, match=r"manifest\.json must be .*JSON"):
        Bundle.open(tmp_path)


def test_golden_is_never_unpickled(copy: Path) -> None:
    bundle = Bundle.open(copy)
    np.savez(copy / "golden.npz", crops=np.array([{}], dtype=object))
    with pytest.raises(BundleFormatError, match=r"golden\.npz .*damaged"):
        bundle.golden()


def interrupted_write(out: Path) -> None:
    with new_bundle_dir(out) as folder:
        (folder / "encoder.onnx").touch()
        raise KeyboardInterrupt


def write(out: Path, *, overwrite: bool) -> None:
    with new_bundle_dir(out, overwrite=overwrite) as folder:
        (folder / "manifest.json").write_text("new")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(tmp_path / "new")
    assert names(tmp_path) == []


def test_a_killed_write_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "peta"
    script = "import sys, time; from pathlib import Path; from seqpar_deploy.bundle import new_bundle_dir\n"
    script += "with new_bundle_dir(Path(sys.argv[1])) as folder: print(folder.name, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, out], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        partial = other.stdout.readline().strip()
        assert partial.startswith(".peta.partial-")
        write(out, overwrite=False)  # while the other one lives
        assert names(tmp_path) == [partial, "peta"]
        other.kill()
    (tmp_path / ".peta2.partial-of-another").mkdir()
    write(out, overwrite=True)
    assert names(tmp_path) == [".peta2.partial-of-another", "peta"]


def test_overwriting_is_asked_for_and_bundles_only(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(BundleError, match="already exists"):
        write(copy, overwrite=False)
    (tmp_path / "photos").mkdir()
    with pytest.raises(BundleError, match=r"without manifest\.json, .*not overwritten"):
        write(tmp_path / "photos", overwrite=True)
    write(copy, overwrite=True)
    assert (copy / "manifest.json").read_text() == "new"
    assert names(tmp_path) == ["bundle", "photos"]


def test_what_came_into_being_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def slow_write() -> None:
        with new_bundle_dir(tmp_path / "new"):
            write(tmp_path / "new", overwrite=False)

    with pytest.raises(BundleError, match="already exists"):
        slow_write()
    assert names(tmp_path) == ["new"]
    assert names(tmp_path / "new") == ["manifest.json"]


def test_an_interrupted_overwrite_keeps_the_old(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = (copy / "manifest.json").read_text()
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:  # the last step, when the old bundle has made room
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(copy, overwrite=True)
    assert (copy / "manifest.json").read_text() == old
    assert names(copy.parent) == ["bundle"]
