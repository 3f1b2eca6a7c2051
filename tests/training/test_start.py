"""Training starts from random weights, from CLIP's, or from a checkpoint; and says what it cannot start from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_architecture

from seqpar_deploy.errors import CheckpointError, RecipeError
from seqpar_deploy.modeling.checkpoint import load_checkpoint, save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.resources import load_label_set, training_recipe_names
from seqpar_deploy.training.recipe import Model, load_training_recipe, training_recipe_from_dict
from seqpar_deploy.training.start import model_from_checkpoint, new_model
from seqpar_deploy.vocab import LabelSet


def tiny_model(**changes: Any) -> Model:
    values = {key: value for key, value in tiny_architecture(26).to_dict().items() if key != "attributes"}
    return Model(architecture={**values, **changes.pop("architecture", {})}, **changes)


def test_the_seed_decides_the_weights(label_set: LabelSet) -> None:
    one, same, other = (new_model(tiny_model(), label_set, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["decoder.fc.weight"], other["decoder.fc.weight"])


@pytest.mark.parametrize("wrapped", [False, True])
def test_clip_weights_come_from_a_local_file(tmp_path: Path, label_set: LabelSet, wrapped: bool) -> None:
    clip = random_model(tiny_architecture(26), seed=9).clip_model.state_dict()
    weights = {**clip, "visual.ln_post.weight": torch.ones(64), "input_resolution": torch.tensor(32)}
    torch.save({"state_dict": weights} if wrapped else weights, tmp_path / "clip.pt")
    made = new_model(tiny_model(pretrained=str(tmp_path / "clip.pt")), label_set, seed=1)
    assert all(torch.equal(clip[name], value) for name, value in made.clip_model.state_dict().items())


def test_openai_weights_want_quick_gelu(tmp_path: Path, label_set: LabelSet) -> None:
    clip = random_model(tiny_architecture(26), seed=9).clip_model.state_dict()
    torch.save({**clip, "input_resolution": torch.tensor(32)}, tmp_path / "clip.pt")
    model = tiny_model(pretrained=str(tmp_path / "clip.pt"), architecture={"quick_gelu": False})
    with pytest.raises(CheckpointError, match=r"clip\.pt .*OpenAI.* ViT-L-14-quickgelu"):
        new_model(model, label_set, seed=1)


def test_clip_weights_that_do_not_fit_are_refused(tmp_path: Path, label_set: LabelSet) -> None:
    clip = random_model(tiny_architecture(26), seed=9).clip_model.state_dict()
    clip.pop("visual.proj")
    torch.save(clip, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="1 weights missing"):
        new_model(tiny_model(pretrained=str(tmp_path / "clip.pt")), label_set, seed=1)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "program.pt")
    with pytest.raises(CheckpointError, match=r"program\.pt"):
        new_model(tiny_model(pretrained=str(tmp_path / "program.pt")), label_set, seed=1)
    with pytest.raises(CheckpointError, match=r"a file or one of .*, got 'closedai'"):
        new_model(tiny_model(pretrained="closedai"), label_set, seed=1)


def test_a_checkpoint_without_the_phrases_words_is_refused(tmp_path: Path, label_set: LabelSet) -> None:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, random_model(tiny_architecture(26), seed=3), label_set, dtype=torch.float32)
    assert model_from_checkpoint(load_checkpoint(path), label_set, Model()).decoder.fc.weight.requires_grad
    foreign = [dataclasses.replace(a, phrase=f"zebra {a.phrase}") for a in label_set.attributes]
    with pytest.raises(CheckpointError, match="phrase 'female'"):
        model_from_checkpoint(load_checkpoint(path), dataclasses.replace(label_set, attributes=tuple(foreign)), Model())
    as_published = {"label_set": None}  # which says nothing of what it was trained on
    model = random_model(tiny_architecture(26), seed=3)
    save_checkpoint(path, model, label_set, dtype=torch.float32, metadata=as_published)
    with pytest.raises(CheckpointError, match="the words in"):
        model_from_checkpoint(load_checkpoint(path), dataclasses.replace(label_set, attributes=tuple(foreign)), Model())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"depth": 3}, "depth"),
        ({"layers": "x"}, "layers .* integer above 0, got 'x'"),
        ({"heads": 0}, "heads .* got 0"),
        ({"embed_dim": float("nan")}, "embed_dim .* got nan"),
        ({"vision": {"image_size": 32, "patch_size": 0, "width": 64, "layers": 1}}, "division"),
        ({"vision": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "foo": 2}}, "foo"),
        ({"vision": {"image_size": 32, "patch_size": 16, "width": 100, "layers": 1}}, "head_width, got 100 and 64"),
        ({"text": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 3, "layers": 1}}, "got 64 and 3"),
        ({"stem": ["a", 8]}, "architecture is invalid"),
    ],
)
def test_an_architecture_that_is_none_is_refused(label_set: LabelSet, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        new_model(tiny_model(architecture=wrong), label_set, seed=0)
    assert "\n" not in str(caught.value)


def test_half_a_picture_an_epoch_is_refused() -> None:
    for pictures in (1.5, float("nan"), True):
        with pytest.raises(RecipeError, match=r"x\.toml: pictures_per_epoch must be an integer"):
            training_recipe_from_dict({"format": 1, "name": "x", "pictures_per_epoch": pictures}, source="x.toml")


def test_the_recipes_that_ship_are_recipes() -> None:
    assert {"published", "demo"} <= set(training_recipe_names())
    published = load_training_recipe("published")
    assert published.optimiser.learning_rate == 1e-6
    assert (published.optimiser.epochs, published.optimiser.batch_size, published.augmentation.shift) == (50, 32, 10)
    for name in training_recipe_names():
        recipe = load_training_recipe(name)
        assert training_recipe_from_dict(recipe.to_dict(), source="itself") == recipe
    new_model(load_training_recipe("demo").model, load_label_set("pa100k"), seed=0)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("optimiser", {"learning_rat": 1.0}, r"optimiser\.learning_rat is an unknown key"),
        ("optimiser", {"learning_rate": "fast"}, r"optimiser\.learning_rate must be a number, got 'fast'"),
        ("optimiser", {"epochs": 0}, r"optimiser\.epochs must be an integer >= 1, got 0"),
        ("optimiser", {"accumulate": 5}, "accumulate must divide batch_size 32, got 5"),
        ("optimiser", {"precision": "int8"}, r"optimiser\.precision must be one of .*, got 'int8'"),
        ("optimiser", {"average": 1.0}, r"optimiser\.average must be a number < 1.*got 1\.0"),
        ("augmentation", {"flip": 1}, r"augmentation\.flip must be true or false, got 1"),
        ("augmentation", {"erase": 2.0}, r"augmentation\.erase must be a number <= 1.*got 2\.0"),
    ],
)
def test_a_wrong_recipe_is_one_clear_line(part: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        training_recipe_from_dict({"format": 1, "name": "mine", part: values}, source="mine.toml")
    assert "\n" not in str(caught.value)
