"""Training on trimmed crops: each person is read at its own width, and a batch of several widths is one batch."""

from __future__ import annotations

import copy
import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import tiny_architecture
from PIL import Image
from torch import Tensor, nn

from seqpar_deploy.datasets import Dataset, load_dataset
from seqpar_deploy.errors import RecipeError
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.modeling.sequencepar import SequencePAR, convolutional_stem
from seqpar_deploy.preprocess import Preprocessing, Trimming, prepare
from seqpar_deploy.training.augment import vary_prepared
from seqpar_deploy.training.loader import Loader, Schedule, Source
from seqpar_deploy.training.loop import train
from seqpar_deploy.training.network import TeacherForced, _together
from seqpar_deploy.training.recipe import Augmentation, Model, load_training_recipe
from seqpar_deploy.training.run import Process, Run
from seqpar_deploy.training.start import model_from_checkpoint, new_model
from seqpar_deploy.training.targets import presence_loss, sequence_loss, sequences_from_labels
from seqpar_deploy.vocab import LabelSet

COLUMNS = (2, 4)  # of the tiny network's 4
TRIMMING = Trimming(columns=COLUMNS, patch_size=8)
SIZES = ((8, 32), (32, 32), (11, 30), (24, 30))  # width and height: 2, 4, 2 and 4 columns


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, label_set: LabelSet) -> Path:
    """A CSV of 16 pictures of the widths in `SIZES`, in turn, without a black pixel."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    with (folder / "people.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(attribute.name for attribute in label_set.attributes)])
        for person in range(16):
            width, height = SIZES[person % len(SIZES)]
            Image.fromarray(rng.integers(60, 256, size=(height, width, 3), dtype=np.uint8)).save(
                folder / f"{person}.png"
            )
            writer.writerow([f"{person}.png", *rng.integers(0, 2, size=len(label_set)).tolist()])
    return folder / "people.csv"


def batch(dataset: Dataset, augmentation: Augmentation, trimming: Trimming | None) -> tuple[Tensor, Tensor, Tensor]:
    """All people as one batch, in the data set's order."""
    schedule = Schedule(sources=(Source(dataset=dataset),), pictures_per_epoch=0, batch_size=len(dataset), seed=0)
    loader = Loader(
        schedule=schedule,
        image_size=32,
        preprocessing=Preprocessing(),
        augmentation=augmentation,
        trimming=trimming,
    )
    images, labels, columns = next(loader.batches(0, 1))
    order = np.argsort([person for _, person, _ in schedule.epoch(0)[0]])
    return images[order], labels[order], columns[order]


def test_the_loader_shifts_inside_what_is_kept(people: Path) -> None:
    dataset = load_dataset("pa100k", people)
    shift = Augmentation(flip=True, shift=6)
    images, labels, columns = batch(dataset, shift, TRIMMING)
    assert columns.tolist() == [2, 4, 2, 4] * 4
    assert np.array_equal(labels, dataset.labels)
    assert images.shape[1:] == (32, 32, 3)
    for person, (image, kept) in enumerate(zip(images.numpy(), columns.tolist(), strict=True)):
        whole = prepare(dataset.crop(person), image_size=32, preprocessing=Preprocessing())
        cut = (4 - kept) // 2 * 8
        rng = np.random.default_rng([0, 1, 0, person, 0])
        assert np.array_equal(image[:, cut : 32 - cut], vary_prepared(whole[:, cut : 32 - cut], shift, rng))
        assert (image[:, :cut] == 0).all()
        assert (image[:, 32 - cut :] == 0).all()


def test_a_model_of_whole_crops_gets_whole_crops(people: Path) -> None:
    images, _, columns = batch(load_dataset("pa100k", people), Augmentation(flip=False, shift=6), None)
    assert columns.tolist() == [0] * 16
    beside = images[::4, :, :8]  # people that a trimmed model would read without these columns
    assert beside.any()


def test_the_width_is_that_of_the_varied_crop(people: Path) -> None:
    """A detector's box that is wider by a tenth can need more columns, in training as in use."""
    dataset = load_dataset("pa100k", people).subset(range(2, 16, 4))  # 11 wide and 30 high
    margins = [set(batch(dataset, Augmentation(margin=margin, shift=0), TRIMMING)[2].tolist()) for margin in (0, 0.4)]
    assert margins == [{2}, {2, 4}]


def network(*, stem: tuple[int, ...] = ()) -> SequencePAR:
    model = random_model(dataclasses.replace(tiny_architecture(26), stem=stem, columns=COLUMNS), seed=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics of another batch than this
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.requires_grad_(True)


@pytest.mark.parametrize("stem", [(), (8, 16)])
def test_a_batch_of_several_widths_is_its_crops_one_by_one(
    people: Path, label_set: LabelSet, stem: tuple[int, ...]
) -> None:
    dataset = load_dataset("pa100k", people)
    images, labels, columns = batch(dataset, Augmentation(flip=False, shift=0), TRIMMING)
    crops = images.permute(0, 3, 1, 2) / 255
    inputs, targets = sequences_from_labels(labels, eos=True)
    taught = TeacherForced(network(stem=stem), label_set, presence=True, seed=0).eval()

    def loss_and_gradients(rows: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
        taught.zero_grad()
        log_probs, presence = taught(crops[rows], inputs[rows], columns[rows])
        assert presence is not None
        loss = sequence_loss(log_probs, targets[rows], labels[rows]) + presence_loss(presence, labels[rows])
        loss.backward()
        found = {name: p.grad.clone() for name, p in taught.named_parameters() if p.grad is not None}
        return loss.detach(), found

    together, gradients = loss_and_gradients(list(range(16)))
    apart = [loss_and_gradients([row]) for row in range(16)]
    assert torch.allclose(together, sum(loss for loss, _ in apart))
    assert any("visual" in name for name in gradients)
    for name, gradient in gradients.items():
        expected = sum(one[name] for _, one in apart)
        assert (gradient - expected).abs().max() < 1e-3 * expected.abs().max() + 1e-5, name


@pytest.mark.parametrize("stem", [(), (8, 16)])
def test_training_reads_what_the_exported_model_reads(people: Path, label_set: LabelSet, stem: tuple[int, ...]) -> None:
    images, labels, columns = batch(load_dataset("pa100k", people), Augmentation(flip=False, shift=0), TRIMMING)
    inputs, _ = sequences_from_labels(labels, eos=True)
    model = network(stem=stem).eval()
    taught = TeacherForced(model, label_set, presence=False, seed=0).eval()
    table = model.token_table(label_set.phrases)
    with torch.no_grad():
        found, _ = taught(images.permute(0, 3, 1, 2) / 255, inputs, columns)
        for row, kept in enumerate(columns.tolist()):
            trimmed = torch.from_numpy(np.ascontiguousarray(TRIMMING.trim(images[row].numpy(), kept)))
            alone = model(trimmed[None].permute(0, 3, 1, 2) / 255, inputs[row, None], table)
            assert torch.allclose(found[row], alone[0], atol=1e-4)


def test_batches_of_equal_widths_have_the_statistics_of_one() -> None:
    torch.manual_seed(0)
    split, whole = (convolutional_stem(8, 16, 32).double().train() for _ in range(2))
    whole.load_state_dict(split.state_dict())
    images = torch.rand(6, 3, 32, 16, dtype=torch.float64)
    parts = _together(split, [images[:2], images[2:]])
    assert torch.allclose(torch.cat(parts), whole(images))
    assert {name for name, _ in split.named_buffers()} > {"1.running_mean", "1.running_var"}
    for (name, ours), theirs in zip(split.named_buffers(), whole.buffers(), strict=True):
        assert torch.allclose(ours, theirs), name


def test_statistics_of_several_widths_are_those_of_all_pixels() -> None:
    torch.manual_seed(0)
    narrow, wide = torch.rand(2, 5, 4, 2) + 3, torch.rand(3, 5, 4, 4)
    norm = nn.BatchNorm2d(5, momentum=1.0)
    made = _together(norm, [narrow, wide])
    pixels = torch.cat([x.transpose(0, 1).flatten(1) for x in (narrow, wide)], dim=1)
    assert torch.allclose(norm.running_mean, pixels.mean(1))
    assert torch.allclose(norm.running_var, pixels.var(1))
    assert [part.shape for part in made] == [narrow.shape, wide.shape]
    scale = (pixels.var(1, unbiased=False) + norm.eps).sqrt()
    for part, x in zip(made, (narrow, wide), strict=True):
        assert torch.allclose(part, (x - pixels.mean(1)[:, None, None]) / scale[:, None, None], atol=1e-5)


def stored(folder: Path, label_set: LabelSet, columns: tuple[int, ...]) -> Path:
    path = folder / "start.safetensors"
    model = random_model(dataclasses.replace(tiny_architecture(26), columns=columns), seed=3)
    save_checkpoint(path, model, label_set, dtype=torch.float32)
    return path


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (Model(), "trim = false"),
        (Model(trim=True, architecture={"columns": [4]}), r"columns \[4\]"),
    ],
)
def test_a_recipe_of_other_widths_than_the_checkpoint_is_refused(
    tmp_path: Path, label_set: LabelSet, model: Model, got: str
) -> None:
    checkpoint = load_checkpoint(stored(tmp_path, label_set, COLUMNS))
    with pytest.raises(RecipeError, match=rf"\[2, 4\].*got {got}") as caught:
        model_from_checkpoint(checkpoint, label_set, model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", [[3, 4], [4, 2], [2]])
def test_widths_that_do_not_fit_the_grid_are_refused(tmp_path: Path, label_set: LabelSet, columns: list[int]) -> None:
    checkpoint = load_checkpoint(stored(tmp_path, label_set, ()))
    with pytest.raises(RecipeError, match="columns must be"):
        model_from_checkpoint(checkpoint, label_set, Model(trim=True, architecture={"columns": columns}))


def test_whole_crops_can_become_trimmed_ones(tmp_path: Path, label_set: LabelSet) -> None:
    checkpoint = load_checkpoint(stored(tmp_path, label_set, ()))
    assert model_from_checkpoint(checkpoint, label_set, Model()).architecture.trimming is None
    made = model_from_checkpoint(checkpoint, label_set, Model(trim=True))
    assert made.architecture.trimming == TRIMMING
    save_checkpoint(tmp_path / "made.safetensors", made, label_set, dtype=torch.float32)
    again = load_checkpoint(tmp_path / "made.safetensors")
    assert build_model(again, label_set).architecture.columns == COLUMNS
    assert model_from_checkpoint(again, label_set, Model(trim=True)).architecture.columns == COLUMNS


class _Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 5])
def test_a_trimmed_run_resumes_to_the_same_weights(
    people: Path, label_set: LabelSet, recipe_file: Callable[..., Path], tmp_path: Path, step: int
) -> None:
    path = recipe_file(epochs=3, more="muon = 0.02\npresence = 0.5")
    text = path.read_text().replace("image_size = 16", "image_size = 32").replace("batch_size = 8", "batch_size = 6")
    path.write_text(text.replace("[model.arch", "[model]\ntrim = true\n\n[model.arch"))
    recipe = load_training_recipe(path)
    whole = Run(
        recipe=recipe,
        label_set=label_set,
        sources=(Source(dataset=load_dataset(label_set, people)),),
        validation=load_dataset(label_set, people),
        out=tmp_path / "whole",
        save_every=0,
    )
    stopped = dataclasses.replace(whole, out=tmp_path / "stopped")

    def kill(done: int, _total: int) -> None:
        if done == step + 1:  # the state of `step` has been saved
            raise _Killed

    run_all(whole, label_set)
    with pytest.raises(_Killed):
        run_all(stopped, label_set, kill)
    assert not (stopped.out / "last.safetensors").exists()
    run_all(stopped, label_set)
    one, other = (safetensors.torch.load_file(run.out / "last.safetensors") for run in (whole, stopped))
    trained = build_model(load_checkpoint(whole.out / "last.safetensors"), label_set)
    assert trained.architecture.columns == COLUMNS
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    start = new_model(recipe.model, label_set, seed=0).state_dict()
    assert not torch.equal(one["decoder.fc.weight"], start["decoder.fc.weight"])


def run_all(run: Run, label_set: LabelSet, progress: Callable[[int, int], Any] = lambda done, total: None) -> None:
    model = copy.deepcopy(new_model(run.recipe.model, label_set, seed=run.seed))
    list(train(run, model, Process(rank=0, world=1, device=torch.device("cpu")), progress=progress))


@pytest.mark.parametrize(("width", "columns"), [(16, 2), (18, 4)])
def test_a_crop_of_the_inputs_height_is_not_filtered(width: int, columns: int) -> None:
    """Pillow copies it, so that no pixel beside it is touched."""
    crop = np.full((32, width, 3), 200, np.uint8)
    assert TRIMMING.columns_of(crop, Preprocessing()) == columns
    prepared = prepare(crop, image_size=32, preprocessing=Preprocessing())
    assert TRIMMING.trim(prepared, columns).sum() == crop.sum()
