"""The network's weights are found under the wrappers and prefixes that training code adds."""

from __future__ import annotations

import argparse
import collections
import io
import json
import pathlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import DATA
from torch import Tensor

from seqpar_deploy.errors import CheckpointError
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint
from seqpar_deploy.modeling.weights import find_weights
from seqpar_deploy.resources import load_label_set

NAMES = ("clip_model.visual.proj", "clip_model.text_projection", "decoder.fc.weight", "bos_embedding")
TRAINED = {name: torch.full((2,), float(number)) for number, name in enumerate(NAMES)}
AVERAGE = {name: value + 100 for name, value in TRAINED.items()}
GOLDEN = DATA / "golden" / "pa100k-a.checkpoint.safetensors"


def prefixed(prefix: str, values: dict[str, Tensor] = TRAINED) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def is_average(found: dict[str, Tensor]) -> bool:
    """Whether these are the averaged weights and no others; if not, they are exactly the trained ones."""
    average = float(found["bos_embedding"][0]) >= 100
    expected = AVERAGE if average else TRAINED
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    return average


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.model.", "model.module.",
     "_fsdp_wrapped_module.", "_forward_module.model.", "seqpar."],
)  # fmt: skip
@pytest.mark.parametrize("wrapper", [None, "state_dict", "state_dicts", "model", "weights", "ema", "anything"])
def test_prefixes_and_wrappers(prefix: str, wrapper: str | None) -> None:
    weights = prefixed(prefix)
    content = weights if wrapper is None else {"epoch": 3, wrapper: weights, "best": None}
    assert not is_average(find_weights(content, source="x.pth"))


@pytest.mark.parametrize(
    "content",
    [
        {("module." if number % 2 else "") + name: value for number, (name, value) in enumerate(TRAINED.items())},
        {name.replace("visual", "_orig_mod.visual"): value for name, value in TRAINED.items()},
        {name.replace("decoder.", "decoder.module."): value for name, value in TRAINED.items()},
        {"checkpoint": {"model": {"state_dict": prefixed("module.")}}},
        {"n_averaged": torch.tensor(3), **prefixed("module.")},
        {**TRAINED, "decoder.total_ops": torch.zeros(1), "total_params": torch.zeros(1)},
        {"state_dict": {**prefixed("model."), "criterion.weight": torch.zeros(2)}, "hyper_parameters": {"decoder": 3}},
        {"model": TRAINED, "optimizer": {"state": {"decoder.fc.weight": {"exp_avg": torch.zeros(2)}}}},
        {"clip_model": {"visual.proj": TRAINED[NAMES[0]], "text_projection": TRAINED[NAMES[1]]},
         "model_state_dict": {name: TRAINED[name] for name in NAMES[2:]}},
        (TRAINED, 7),
    ],
    ids=["some", "compiled-inside", "ddp-inside", "nested", "swa", "thop", "lightning", "optimizer", "parts", "tuple"],
)  # fmt: skip
def test_what_else_training_code_writes(content: object) -> None:
    assert not is_average(find_weights(content, source="x.pth"))


@pytest.mark.parametrize(
    ("content", "choice"),
    [
        ({"model": TRAINED, "model_ema": AVERAGE}, "model_ema"),
        ({"state_dict_ema": AVERAGE, "state_dict": TRAINED}, "state_dict_ema"),
        ({"ema": {"module": AVERAGE}, "net": prefixed("module.")}, "ema"),
        ({"state_dict": {**prefixed("ema_model.", AVERAGE), **prefixed("model.")}}, "ema_model"),
    ],
)
def test_an_average_is_taken_on_request(content: object, choice: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not is_average(find_weights(content, source="x.pth"))
    (line,) = caplog.messages
    assert "x.pth" in line
    assert choice in line
    assert "--weights" in line
    assert is_average(find_weights(content, source="x.pth", choice=choice))
    with pytest.raises(CheckpointError, match=rf"--weights .*x\.pth.*{choice}.*'nothing'"):
        find_weights(content, source="x.pth", choice="nothing")


def test_two_networks_need_a_choice() -> None:
    content = {"student": TRAINED, "teacher": AVERAGE}
    with pytest.raises(CheckpointError, match=r"student, teacher.*--weights"):
        find_weights(content, source="x.pth")
    assert is_average(find_weights(content, source="x.pth", choice="teacher"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"state_dict": {"layer1.conv.weight": torch.zeros(2)}}, "layer1.conv.weight"),
        (torch.optim.SGD([torch.zeros(2)]).state_dict(), "optimizer"),
        ({"epoch": 3, "optimizer": {}}, "epoch"),
        ([1, 2], "list"),
        ({**TRAINED, "decoder.fc.weight": None}, "NoneType"),
        ({**TRAINED, "decoder.fc.weight": torch.zeros(2, device="meta")}, "meta"),
        ({**TRAINED, "decoder.fc.weight": torch.zeros(2, dtype=torch.complex64)}, "complex64"),
        ({**TRAINED, "decoder.fc.weight": torch.eye(2).to_sparse()}, "sparse"),
    ],
)
def test_what_holds_no_such_network(content: object, named: str) -> None:
    with pytest.raises(CheckpointError, match=rf"x\.pth.*{named}"):
        find_weights(content, source="x.pth")


def test_unknown_weights_beside_the_network_are_not_dropped() -> None:
    adapter = {"adapter.weight": torch.zeros(2)}
    for content in ({**TRAINED, **adapter}, {"model": {**prefixed("module."), **prefixed("module.", adapter)}}):
        assert "adapter.weight" in find_weights(content, source="x.pth")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return dict(load_checkpoint(GOLDEN).state_dict)


def assert_golden(path: Path, golden: dict[str, Tensor]) -> None:
    model = build_model(load_checkpoint(path), load_label_set("pa100k"), decoder_heads=4)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, golden[name].to(value.dtype), atol=0.02, rtol=0.02)


def test_types_old_files_and_settings(golden: dict[str, Tensor], tmp_path: Path) -> None:
    types = (torch.float16, torch.bfloat16, torch.float64)
    mixed = {name: value.to(types[place % 3]) for place, (name, value) in enumerate(golden.items())}
    settings: dict[str, Any] = {
        "args": argparse.Namespace(out=pathlib.Path("runs")), "scores": np.arange(3.0),
        "log": collections.defaultdict(list, loss=[1]), "f1": np.float64(0.5),
    }  # fmt: skip
    torch.save({"model_state_dict": mixed, **settings}, tmp_path / "mixed.pth")
    assert_golden(tmp_path / "mixed.pth", golden)
    torch.save(prefixed("module.", golden), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_golden(tmp_path / "old.pth", golden)


def test_tensors_of_a_gpu(golden: dict[str, Tensor], tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save(golden, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(tmp_path / "gpu.pth", "w") as target:
        for name in source.namelist():
            there = source.read(name).replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            target.writestr(name, there if name.endswith("data.pkl") else source.read(name))
    assert_golden(tmp_path / "gpu.pth", golden)


def test_the_content_decides_and_not_the_name(golden: dict[str, Tensor], tmp_path: Path) -> None:
    safetensors.torch.save_file(prefixed("model.", golden), tmp_path / "weights.pth")
    torch.save(golden, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        assert_golden(tmp_path / name, golden)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_files_in_several_parts(golden: dict[str, Tensor], tmp_path: Path, ending: str) -> None:
    parts = [f"model-0000{number}-of-00002.{ending}" for number in (1, 2)]
    where = {name: parts[place % 2] for place, name in enumerate(golden)}
    for part in parts:
        values = {name: golden[name].clone() for name in golden if where[name] == part}
        if ending == "bin":
            torch.save(values, tmp_path / part)
        else:
            safetensors.torch.save_file(values, tmp_path / part)
    index = tmp_path / f"model.{ending}.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert_golden(index, golden)
    assert load_checkpoint(tmp_path).sha256 == load_checkpoint(index).sha256
    with pytest.raises(CheckpointError, match=r"part 1 of 2.*index\.json"):
        load_checkpoint(tmp_path / parts[0])
    (tmp_path / parts[1]).unlink()
    with pytest.raises(CheckpointError, match=parts[1]):
        load_checkpoint(index)
    index.write_text(json.dumps({"weight_map": {"decoder.fc.weight": "../../elsewhere.bin"}}))
    with pytest.raises(CheckpointError, match=r"index\.json"):
        load_checkpoint(index)


@pytest.mark.parametrize(("value", "named"), [(float("nan"), "NaN"), (float("inf"), "infinity"), (None, "int8")])
def test_weights_that_cannot_be_used(
    golden: dict[str, Tensor], tmp_path: Path, value: float | None, named: str
) -> None:
    bad = golden["decoder.fc.weight"].to(torch.int8) if value is None else golden["decoder.fc.weight"] + value
    torch.save({**golden, "decoder.fc.weight": bad}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=rf"bad\.pth.*decoder\.fc\.weight.*{named}"):
        build_model(load_checkpoint(tmp_path / "bad.pth"), load_label_set("pa100k"), decoder_heads=4)
