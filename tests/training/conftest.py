"""A data set of coloured squares: whether the picture is red, green, blue decides the attributes."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqpar_deploy.resources import load_label_set

RECIPE = """
format = 1
name = "tiny"
pictures_per_epoch = {pictures}

[model.architecture]
embed_dim = 32
layers = 1
heads = 2
head_size = 16
ffn = 64
vision = {{ image_size = 16, patch_size = 8, width = 32, head_width = 16, layers = 1 }}
text = {{ context_length = 16, vocab_size = 49408, width = 16, heads = 2, layers = 1 }}

[optimiser]
epochs = {epochs}
batch_size = 8
learning_rate = 4e-3
warmup_epochs = 0.5
schedule = "step"
average = 0.9
{more}

[augmentation]
shift = 1
margin = 0.05
colour = 0.05
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For the commands the tests run: two threads that wait for each other are slow on networks as small as these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 64 squares in three colours, each with attributes of its own, in 16 groups."""
    folder = tmp_path_factory.mktemp("squares")
    attributes = [attribute.name for attribute in load_label_set("pa100k").attributes]
    rng = np.random.default_rng(0)
    positive = {0: {"Female", "Front", "boots"}, 1: {"Hat", "Shorts"}, 2: {"Backpack"}}
    with (folder / "squares.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "group", *attributes])
        for person in range(64):
            colour = person % 3
            pixels = rng.integers(0, 60, size=(20, 20, 3), dtype=np.uint8)
            pixels[..., colour] += 180
            name = f"{person:03}.png"
            Image.fromarray(pixels).save(folder / name)
            row = ["1" if attribute in positive[colour] else "0" for attribute in attributes]
            row[3] = ""  # nobody knows
            writer.writerow([name, f"group {person // 4}", *row])
    return folder / "squares.csv"


@pytest.fixture(scope="session")
def write_recipe() -> Callable[..., Path]:
    """`write_recipe(folder, epochs=3, pictures=0, more="eos = false")`."""

    def write(folder: Path, *, epochs: int = 3, pictures: int = 0, more: str = "") -> Path:
        path = folder / "tiny.toml"
        path.write_text(RECIPE.format(epochs=epochs, pictures=pictures, more=more))
        return path

    return write


@pytest.fixture
def recipe_file(write_recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`write_recipe` into the test's own folder."""
    return functools.partial(write_recipe, tmp_path)
