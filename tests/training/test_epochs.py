"""The training loop in this process: its options, how it starts, and how it ends an epoch."""

from __future__ import annotations

import copy
import dataclasses
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from seqpar_deploy.datasets import Dataset, load_dataset
from seqpar_deploy.errors import DatasetError, TrainingError
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.training import loop
from seqpar_deploy.training.loader import Source
from seqpar_deploy.training.recipe import load_training_recipe
from seqpar_deploy.training.run import Process, Run
from seqpar_deploy.training.start import new_model

pytestmark = pytest.mark.slow

ALONE = Process(rank=0, world=1, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def new_run(squares: Path, recipe_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Run]:
    def new(name: str, *, epochs: int, more: str = "", pictures: int = 16, **options: Any) -> Run:
        labels = load_label_set("pa100k")
        return Run(
            recipe=load_training_recipe(recipe_file(epochs=epochs, pictures=pictures, more=more)),
            label_set=labels,
            sources=(Source(dataset=load_dataset(labels, squares, "train")),),
            out=tmp_path / name,
            **{"validation": load_dataset(labels, squares, "test"), **options},
        )

    return new


def train(run: Run) -> list[dict[str, Any]]:
    model = new_model(run.recipe.model, run.label_set, seed=run.seed)
    return list(loop.train(run, model, ALONE, progress=lambda done, total: None))


def weights(run: Run, name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.out / name)


def assert_same(one: Run, other: Run, name: str) -> None:
    a, b = weights(one, name), weights(other, name)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.mark.parametrize(("validated", "copies"), [(True, 3), (False, 1)])
def test_the_network_is_copied_only_to_be_validated_or_kept(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, validated: bool, copies: int
) -> None:
    copied: list[SequencePAR] = []
    deepcopy = copy.deepcopy

    def counting(value: Any, *rest: Any) -> Any:
        copied.extend([value] * isinstance(value, SequencePAR))
        return deepcopy(value, *rest)

    monkeypatch.setattr(copy, "deepcopy", counting)
    run = new_run("run", epochs=5, validate_every=2, **({} if validated else {"validation": None}))
    rows = train(run)
    assert len(copied) == copies
    assert [row["epoch"] for row in rows if "f1" in row] == ([2, 4, 5] if validated else [])
    assert (run.out / "last.safetensors").is_file()


def test_without_bf16_instructions_training_is_in_fp32_and_says_so(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The steps are compared, not the recipes: the same weights to the last bit, which bf16 would not give."""
    fp32 = new_run("fp32", epochs=1, validation=None)
    train(fp32)
    assert not [line for line in caplog.messages if "bf16" in line]
    for has_bf16 in (True, False):
        caplog.clear()
        monkeypatch.setattr(loop, "has_bf16", lambda has_bf16=has_bf16: has_bf16)
        bf16 = new_run(f"bf16-{has_bf16}", epochs=1, more='precision = "bf16"', validation=None)
        train(bf16)
        lines = [record for record in caplog.records if "bf16" in record.getMessage()]
        assert [record.levelno for record in lines] == ([] if has_bf16 else [logging.WARNING])
        same = torch.equal(*(weights(run, "last.safetensors")["decoder.fc.weight"] for run in (fp32, bf16)))
        assert same == (not has_bf16)
    assert_same(fp32, bf16, "last.safetensors")


def test_attributes_that_no_source_labels_are_named(
    new_run: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run("run", epochs=1, validation=None)
    assert run.unlabelled() == [run.label_set.attributes[3].name]
    train(run)
    (line,) = [line for line in caplog.messages if "not trained" in line]
    assert "1 of the 26" in line
    assert line.endswith(run.label_set.attributes[3].name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interrupting(Dataset):
    """Sends this process SIGTERM while its first picture is read."""

    def crop(self, index: int) -> Crop:
        if index == 0:
            signal.raise_signal(signal.SIGTERM)
        return super().crop(index)


@pytest.mark.parametrize("epochs", [2, 1])
def test_a_run_stopped_in_its_validation_ends_as_one_that_was_not(
    new_run: Callable[..., Run], epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole, stopped = (new_run(name, epochs=epochs) for name in ("whole", "stopped"))
    expected = train(whole)
    assert stopped.validation is not None
    fields = {field.name: getattr(stopped.validation, field.name) for field in dataclasses.fields(Dataset)}
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(stopped, validation=Interrupting(**fields)))
    assert {path.name for path in stopped.out.iterdir()} == {"recipe.json", "log.csv", "state.safetensors"}

    caplog.set_level(logging.INFO)
    rows = train(stopped)
    assert any("resuming" in line for line in caplog.messages)
    scores = ("epoch", "f1", "ma", "loss", "learning_rate")
    assert [[row[name] for name in scores] for row in rows] == [[row[name] for name in scores] for row in expected]
    for name in ("best-f1.safetensors", "best-ma.safetensors", "last.safetensors"):
        assert_same(whole, stopped, name)
    assert train(stopped) == []


def test_another_start_is_another_run(new_run: Callable[..., Run]) -> None:
    run = new_run("run", epochs=1, start="a" * 64)
    train(run)
    assert train(run) == []
    for other in (None, "b" * 64):
        with pytest.raises(TrainingError, match="another start"):
            train(dataclasses.replace(run, start=other))


def test_shares_need_pictures_per_epoch(new_run: Callable[..., Run]) -> None:
    run = new_run("run", epochs=1)
    shares = {"sources": (run.sources[0], dataclasses.replace(run.sources[0], share=0.5))}
    dataclasses.replace(run, **shares)
    with pytest.raises(DatasetError, match="pictures_per_epoch"):
        dataclasses.replace(run, **shares, recipe=dataclasses.replace(run.recipe, pictures_per_epoch=0))


def test_parts_of_a_batch_add_up_to_the_batch(new_run: Callable[..., Run]) -> None:
    """Dropout differs between the two, so the losses of the first epoch are compared to one part in 20."""
    whole, parts = (
        train(new_run(f"run{number}", epochs=1, pictures=0, more=f"accumulate = {number}", validation=None))
        for number in (1, 4)
    )
    assert whole[0]["loss"] == pytest.approx(parts[0]["loss"], rel=0.05)


@pytest.mark.parametrize(
    "more",
    [
        "eos = false",
        'precision = "bf16"',
        "image_tower = 0",
        "label_smoothing = 0.1",
        "presence = 0.5",
        "muon = 0.02\npresence = 0.5",
    ],
)
def test_options_train(new_run: Callable[..., Run], more: str) -> None:
    run = new_run("run", epochs=2, more=more)
    train(run)
    tensors = weights(run, "state.safetensors")
    assert ("exp_avg.model.clip_model.visual.proj" in tensors) == (more != "image_tower = 0" and "muon" not in more)
    assert ("momentum_buffer.model.clip_model.visual.proj" in tensors) == ("muon" in more)
    assert ("presence.weight" in tensors) == ("presence" in more)
    assert "exp_avg.model.decoder.fc.weight" in tensors
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point())
