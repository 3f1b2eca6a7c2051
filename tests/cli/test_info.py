"""`seqpar info`: a bundle as it is, damaged, tuned, and with engines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from seqpar_deploy import Bundle
from seqpar_deploy.backends.gpu.engine_files import ENGINE_JSON, ENGINES, identity_of
from seqpar_deploy.backends.verification import VERIFIED
from seqpar_deploy.bundle import ENCODER, MANIFEST
from seqpar_deploy.cli.main import app
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.tuned import TUNED, Tuned, save_tuned


def invoke(bundle: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["info", str(bundle), *options])


def facts(bundle: Path) -> Any:
    done = invoke(bundle, "--json")
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


@pytest.fixture
def bundle(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(bundle_dir, tmp_path / "bundle"))


def test_facts_of_a_bundle(int8_bundle_dir: Path) -> None:
    opened, found = Bundle.open(int8_bundle_dir), facts(int8_bundle_dir)
    assert found["digest"] == opened.digest
    assert found["label_set"]["attributes"] == 26
    assert found["label_set"]["groups"]["shoes"] == ["boots"]
    assert found["label_set"]["names"] == [attribute.name for attribute in opened.label_set.attributes]
    assert found["dimensions"]["capacity"] == 27
    assert (found["precision"], found["padding"], found["recipe"]) == ("fp32", "full", "int8")
    assert found["parity"]["passed"]
    assert found["parity"]["identical"] == found["parity"]["crops"]
    assert found["int8"]["crops"] == found["parity"]["crops"]
    assert found["checkpoint"]["file"] == "tiny.safetensors"
    assert found["files"][ENCODER] == opened.encoder.stat().st_size
    assert found["total_bytes"] == sum(found["files"].values()) + (int8_bundle_dir / MANIFEST).stat().st_size
    assert (found["engines"], found["tuning"], found["verified"], found["calibration"]) == ({}, None, None, None)


def test_text(bundle: Path) -> None:
    text = invoke(bundle).stdout
    for fact in ("pa100k, 26 attributes", "capacity 27", "tiny.safetensors", "8-bit", ENCODER, "not checked"):
        assert fact in text


def test_hashes_are_checked_on_request(bundle: Path) -> None:
    weights = bundle / "encoder.onnx.data"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    assert invoke(bundle).exit_code == 0
    with pytest.raises(SeqparError, match=r"encoder\.onnx\.data"):
        CliRunner().invoke(app, ["info", str(bundle), "--verify"], catch_exceptions=False)


@pytest.mark.parametrize("damage", ["gone", "no manifest", "parity is text", "batches are text"])
def test_bad_bundles(bundle: Path, damage: str) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    if damage == "gone":
        shutil.rmtree(bundle)
    elif damage == "no manifest":
        (bundle / MANIFEST).unlink()
    elif damage == "parity is text":
        (bundle / MANIFEST).write_text(json.dumps({**manifest, "parity": "fine"}))
    else:
        (bundle / MANIFEST).write_text(json.dumps({**manifest, "batches": "many"}))
    with pytest.raises(SeqparError, match="bundle"):
        CliRunner().invoke(app, ["info", str(bundle)], catch_exceptions=False)


def test_tuning_fits_or_not(bundle: Path, tmp_path: Path) -> None:
    save_tuned(Bundle.open(bundle), Tuned(backend="openvino", speculative=True, threads=1))
    found = facts(bundle)["tuning"]
    assert found["fits"] is True
    assert found["choice"]["backend"] == "openvino"

    values = json.loads((bundle / TUNED).read_text())
    (bundle / TUNED).write_text(json.dumps({**values, "cores": 4096}))
    line = next(line for line in invoke(bundle).stdout.splitlines() if line.startswith("  tuning"))
    assert "does not fit" in line
    assert "4096 cores" in line

    cached = tmp_path / "cache" / "seqpar-deploy" / Bundle.open(bundle).digest / TUNED
    cached.parent.mkdir(parents=True)
    cached.write_text(json.dumps(values | {"choice": {**values["choice"], "threads": 2}}))
    assert facts(bundle)["tuning"] == {"fits": True, "choice": {**found["choice"], "threads": 2}}


def test_engines_and_broken_sidecars(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    identity = identity_of(opened, "tensorrt_rtx", "1.0", None)
    for name, content in {"a": identity_json(identity), "b": "{"}.items():
        folder = bundle / ENGINES / f"tensorrt_rtx-{name}"
        folder.mkdir(parents=True)
        (folder / ENGINE_JSON).write_text(content)
    (bundle / TUNED).write_text("[")
    subject = {"backend": "tensorrt_rtx", "version": "1.0", "gpu": "L4", "driver": 13000}
    (bundle / VERIFIED).write_text(json.dumps({"results": [{"subject": subject, "failure": "golden crop 3"}]}))
    found = facts(bundle)
    assert found["engines"]["tensorrt_rtx-a"]["version"] == "1.0"
    assert not found["engines"]["tensorrt_rtx-a"]["fits"]
    assert "engine.json" in found["engines"]["tensorrt_rtx-b"]["reason"]
    assert "error" in found["tuning"]
    assert found["verified"]["results"][0]["subject"]["gpu"] == "L4"
    lines = invoke(bundle).stdout.splitlines()
    assert any(line.startswith("  engines") and "tensorrt_rtx-b: " in line for line in lines)
    assert any(line.startswith("  verified") and "golden crop 3" in line for line in lines)


def identity_json(identity: Any) -> str:
    import dataclasses

    return json.dumps({"format": 1, **dataclasses.asdict(identity), "plans": {"encoder": "0", "decoder_step": "0"}})


def test_a_sidecar_that_is_not_sound_is_no_fault_of_the_manifest(bundle: Path) -> None:
    (bundle / TUNED).write_text('{"format": 1, "choice": 5}')
    (bundle / VERIFIED).write_text('{"format": 1}')
    found = facts(bundle)
    assert TUNED in found["tuning"]["error"]
    assert VERIFIED in found["verified"]["error"]
    assert invoke(bundle).exit_code == 0


def test_a_broken_sidecar_hides_no_sound_one_in_the_cache(bundle: Path, tmp_path: Path) -> None:
    subject = {"backend": "tensorrt", "version": "1.0", "gpu": "L4", "driver": 13000}
    cached = tmp_path / "cache" / "seqpar-deploy" / facts(bundle)["digest"] / VERIFIED
    cached.parent.mkdir(parents=True)
    cached.write_text(json.dumps({"results": [{"subject": subject, "failure": None}]}))
    (bundle / VERIFIED).write_text("[")
    assert facts(bundle)["verified"]["results"][0]["subject"]["gpu"] == "L4"
