"""Recipes: the ones that ship, a user's own, and what is wrong with one, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqpar_deploy.errors import RecipeError
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.resources import data_dir, recipe_names

FP32 = (data_dir("export") / "fp32.toml").read_text()


@pytest.mark.parametrize("name", recipe_names())
def test_what_ships_loads_by_name_and_by_path(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.precision == ("fp32" if name == "int8" else name)
    assert (recipe.int8 is not None) == (name == "int8")
    assert load_recipe(data_dir("export") / f"{name}.toml") == recipe
    assert recipe.to_dict()["format"] == 1


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ("format = 1\n", "", "format is None, wanted 1"),
        ("format = 1", "format = 2", "format is 2, wanted 1"),
        ("format = 1", "format = 1\nopsett = 20", "has an unknown key 'opsett'"),
        ("min = 1", "mini = 1", "batches has an unknown key 'mini'"),
        ("crops = 20", "crop = 20", "parity has an unknown key 'crop'"),
        ("[[batches]]", "[batch]", "has an unknown key 'batch'"),
        ("[[batches]]", "[batches]", "wanted one or more tables [[batches]]"),
        ("tie_margin = 1e-3", "", "parity misses key 'tie_margin'"),
        ('precision = "fp32"', "", "misses key 'precision'"),
        ('precision = "fp32"', 'precision = "fp8"', "precision is 'fp8', wanted one of ['fp32', 'fp16']"),
        ('precision = "fp32"', "precision = 32", "precision is 32, wanted one of"),
        ('name = "fp32"', "name = 32", "name is 32, wanted a text"),
        ("opset = 20", "opset = 17", "opset is 17, wanted 18 to 25"),
        ("opset = 20", "opset = 20.0", "opset is 20.0, wanted 18 to 25"),
        ("opset = 20", 'opset = "20"', "opset is '20', wanted 18 to 25"),
        ("opt = 8", "opt = 64", "wanted whole numbers 1 <= min <= opt <= max"),
        ("min = 1", "min = true", "wanted whole numbers 1 <= min <= opt <= max"),
        ("crops = 20", "crops = 0", "parity crops is 0, wanted 1 or more"),
        ("rendered = 8", "rendered = -1", "parity rendered is -1, wanted 0 or more"),
        ("largest_batch = 32", "largest_batch = 0", "parity largest_batch is 0, wanted 1 or more"),
        ("[[batches]]", "[int8]\ncalibration_crops = 0\n[[batches]]", "int8 calibration_crops is 0, wanted 1 or more"),
        ("[[batches]]", "[int8]\ncrops = 9\n[[batches]]", "int8 has an unknown key 'crops'"),
        (
            'precision = "fp32"',
            'precision = "fp16"\nint8 = {}',
            "8-bit graphs are made of fp32 ones",
        ),
        ('backend = "onnxruntime"', 'backend = "tpu"', "parity backend is 'tpu', wanted one of"),
        ("tie_margin = 1e-3", "tie_margin = -1", "parity tie_margin is -1, wanted a number above 0"),
        ("log_prob_max = 5e-2", "log_prob_max = nan", "parity log_prob_max is nan, wanted a number above 0"),
        ("log_prob_max = 5e-2", 'log_prob_max = "5e-2"', "parity log_prob_max is '5e-2', wanted a number above 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, ours: str, theirs: str, message: str) -> None:
    assert ours in FP32
    file = tmp_path / "mine.toml"
    file.write_text(FP32.replace(ours, theirs))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    said = str(caught.value)
    assert message in said
    assert said.startswith(f"{file} is not a recipe: ")
    assert said.endswith("; see export/fp32.toml for the form")
    assert "\n" not in said


def test_a_table_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('format = 1\nname = "mine"\nprecision = "fp32"\nopset = 20\nparity = 8\n')
    with pytest.raises(RecipeError, match="parity is 8, wanted a table"):
        load_recipe(file)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'int4': neither a file nor one of fp16, fp32, int8"):
        load_recipe("int4")
    file = tmp_path / "mine.toml"
    file.write_bytes(b"format = \xff")
    with pytest.raises(RecipeError, match=r"mine\.toml cannot be read as TOML"):
        load_recipe(file)
