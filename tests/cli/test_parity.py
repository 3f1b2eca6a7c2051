"""`seqpar parity` as a user types it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpar_deploy.bundle import Bundle, file_entries, write_manifest
from seqpar_deploy.cli.parity import parity
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.resources import data_dir, sample_crops
from seqpar_deploy.vocab import LabelSet

pytestmark = pytest.mark.slow


def change_golden(bundle_dir: Path, tmp_path: Path, **changes: np.ndarray | None) -> Path:
    """A copy of a bundle with other golden data; None leaves an array out."""
    copy = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    bundle = Bundle.open(copy)
    golden = {name: array for name, array in {**bundle.golden(), **changes}.items() if array is not None}
    np.savez_compressed(copy / "golden.npz", **golden)
    list_again(bundle, "golden.npz")
    return copy


def list_again(bundle: Bundle, name: str) -> None:
    """Update a file's entry in the manifest."""
    files = {**bundle.manifest["files"], **file_entries(bundle.path, [name])}
    write_manifest(bundle.path, {**bundle.manifest, "files": files})


def test_golden_data_are_the_reference(
    bundle_dir: Path, tmp_path: Path, cpu_backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parity(bundle_dir, backend=cpu_backend, output=tmp_path / "parity.json")
    printed = capsys.readouterr().out
    for fact in ("tiny", cpu_backend, "golden data", "25 crops", "4 real", "3 rendered", "18 adv"):
        assert fact in printed.splitlines()[0]
    values = json.loads((tmp_path / "parity.json").read_text())
    assert (values["passed"], values["reference"], values["breaches"]) == (True, "golden data", [])
    assert values["identical"] + values["ties"] == values["crops"] == 25
    assert [check["name"] for check in values["checks"] if f"  ok       {check['name']} " in printed] == [
        *(
            "attributes",
            "preprocessing",
            "trimming",
            "finite",
            "first step",
            "one call",
            "cache",
            "forgetting",
            "grouping",
        ),
        *("positions", "reordering", "log-probabilities", "greedy", "speculative", "beam", "probabilities"),
        *("batches of 1", "batches of 8", "batches of 32", "pooled"),
    ]


def test_a_checkpoint_is_the_reference_and_both_are_scored(
    bundle_dir: Path, checkpoint_file: Path, label_set: LabelSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [attribute.name for attribute in label_set.attributes]
    people = tmp_path / "people.jsonl"
    people.write_text(
        "".join(
            json.dumps({"image": str(path), "attributes": names[number : number + 6]}) + "\n"
            for number, path in enumerate(sample_crops())
        )
    )
    parity(bundle_dir, checkpoint=checkpoint_file, crops=2, data=people, output=tmp_path / "parity.json")
    values = json.loads((tmp_path / "parity.json").read_text())
    assert (values["passed"], values["reference"], values["kinds"]["real"]) == (True, "checkpoint", 2)
    assert values["scores"]["people"] == 20
    assert 0 < values["scores"]["wanted"]["F1"] < 1
    assert values["scores"]["got"] == values["scores"]["wanted"]
    assert f"bundle: mA {100 * values['scores']['got']['mA']:.2f}, F1" in capsys.readouterr().out


def test_a_breach_is_one_line_after_the_table(bundle_dir: Path, tmp_path: Path) -> None:
    wrong = Bundle.open(bundle_dir).golden()["log_probs"][..., ::-1]
    command = [Path(sys.executable).parent / "seqpar", "parity", change_golden(bundle_dir, tmp_path, log_probs=wrong)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "  WRONG    first step " in done.stdout
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "first step: " in line


def test_what_an_older_bundle_cannot_tell_is_said(
    bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = set(Bundle.open(bundle_dir).golden()) - {"crops", "tokens", "log_probs"}
    parity(change_golden(bundle_dir, tmp_path, **dict.fromkeys(new)))
    printed = capsys.readouterr().out.splitlines()
    for name, lacking in (
        ("preprocessing", "raw crops"),
        ("attributes", "names"),
        ("beam", "beams"),
        ("pooled", "pooled"),
    ):
        (line,) = (line for line in printed if f"  {name} " in line)
        assert line.startswith("  skipped ")
        assert lacking in line


def test_it_needs_no_torch(bundle_dir: Path) -> None:
    program = (
        "import sys\n"
        "from seqpar_deploy.cli.main import run\n"
        f"sys.argv = ['seqpar', 'parity', {str(bundle_dir)!r}]\n"
        "try: run()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'onnx', 'open_clip', 'torchvision'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_it_refuses_in_one_line(bundle_dir: Path, tmp_path: Path) -> None:
    stranger = data_dir("models") / "demo" / "demo.safetensors"
    with pytest.raises(SeqparError, match=r"--data .*--checkpoint"):
        parity(bundle_dir, data=tmp_path)
    with pytest.raises(SeqparError, match=r"tiny\.safetensors"):
        parity(bundle_dir, checkpoint=stranger)
    with pytest.raises(SeqparError, match=r"--explain .*--checkpoint"):
        parity(bundle_dir, explained=True)


def test_it_explains(
    bundle_dir: Path, checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parity(bundle_dir, checkpoint=checkpoint_file, crops=2, explained=True, output=tmp_path / "parity.json")
    values = json.loads((tmp_path / "parity.json").read_text())
    conclusion = values["explanation"]["conclusion"]
    assert "agree within noise" in conclusion
    assert capsys.readouterr().out.rstrip().endswith(conclusion)


def test_it_prints_json(bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parity(bundle_dir, as_json=True, output=tmp_path / "parity.json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "parity.json").read_text())
    assert printed["passed"] is True


def test_a_manifest_is_not_its_own_witness(bundle_dir: Path, checkpoint_file: Path, tmp_path: Path) -> None:
    """Names and filter are the manifest's, also where the checkpoint is at hand: export's own are compared."""
    for number, change in enumerate((exchange_names, other_filter)):
        copy = Path(shutil.copytree(bundle_dir, tmp_path / str(number)))
        manifest = json.loads((copy / "manifest.json").read_text())
        change(manifest["label_set"])
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(SeqparError, match=r": (attributes|preprocessing):"):
            parity(copy)
        with pytest.raises(SeqparError, match=r": preprocessing:|tiny\.safetensors"):
            parity(copy, checkpoint=checkpoint_file, crops=2)  # a checkpoint of ours holds its phrases


def exchange_names(label_set: dict[str, Any]) -> None:
    attributes = label_set["attributes"]
    attributes[4], attributes[9] = attributes[9], attributes[4]


def other_filter(label_set: dict[str, Any]) -> None:
    label_set["preprocessing"]["interpolation"] = "bicubic"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "tokens"),
        ({"crops": np.zeros((0, 32, 32, 3), np.uint8)}, "crops, got none"),
        ({"crops": np.zeros((25, 32, 32, 3), np.float32)}, r"crops must be uint8 .*got float32 \(25, 32, 32, 3\)"),
        ({"tokens": np.full((25, 27), 99)}, "0 to 28, got 99"),
        ({"raw_pixels": np.zeros(5, np.uint8)}, "is malformed"),
        ({"raw_shapes": None}, "raw_shapes"),
    ],
    ids=str,
)
def test_golden_data_that_are_none_are_one_line(
    bundle_dir: Path, tmp_path: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    with pytest.raises(SeqparError, match=message):
        parity(change_golden(bundle_dir, tmp_path, **changes))


def test_golden_data_that_cannot_be_read(bundle_dir: Path, tmp_path: Path) -> None:
    copy = change_golden(bundle_dir, tmp_path)
    bundle = Bundle.open(copy)
    (copy / "golden.npz").write_bytes(b"PK no zip")
    list_again(bundle, "golden.npz")
    with pytest.raises(SeqparError, match=r"golden\.npz"):
        parity(copy)


@pytest.mark.parametrize("tolerances", [{"tie_margin": float("inf")}, {"largest_batch": 0}, {"beams": -1}, None, "x"])
def test_tolerances_that_let_everything_pass_are_refused(bundle_dir: Path, tmp_path: Path, tolerances: Any) -> None:
    copy = Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    recipe = manifest["recipe"]
    recipe["parity"] = {**recipe["parity"], **tolerances} if isinstance(tolerances, dict) else tolerances
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SeqparError, match=r"manifest\.json"):
        parity(copy)
