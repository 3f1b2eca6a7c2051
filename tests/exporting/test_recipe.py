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
        ("format = 1\n", "", "format must be 1, got None"),
        ("format = 1", "format = 2", "format must be 1, got 2"),
        ("rendered = 8", "rendered = 0x7fffffffffffffff", "parity.rendered must be an integer from 0 to 2000"),
        ("beams = 8", "beams = 2001", "parity.beams must be an integer from 0 to 2000"),
        ("format = 1", "format = true", "format must be 1, got True"),
        ("format = 1", "format = 1\nopsett = 20", "opsett is an unknown key"),
        ("min = 1", "mini = 1", "batches[0].mini is an unknown key"),
        ("crops = 20", "crop = 20", "parity.crop is an unknown key"),
        ("[[batches]]", "[batch]", "batch is an unknown key"),
        ("[[batches]]", "[batches]", "batches must be a list"),
        ("tie_margin = 1e-3", "", "parity.tie_margin is missing"),
        ('precision = "fp32"', "", "precision is missing"),
        ('precision = "fp32"', 'precision = "fp8"', "precision must be one of 'fp32', 'fp16', got 'fp8'"),
        ('precision = "fp32"', "precision = 32", "precision must be one of 'fp32', 'fp16', got 32"),
        ('name = "fp32"', "name = 32", "name must be text that is not empty, got 32"),
        ("opset = 20", "opset = 17", "opset must be an integer from 18 to 25, got 17"),
        ("opset = 20", "opset = 20.0", "opset must be an integer from 18 to 25, got 20.0"),
        ("opset = 20", 'opset = "20"', "opset must be an integer from 18 to 25, got '20'"),
        ("opt = 8", "opt = 64", "batches[0]: batch sizes must be min <= opt <= max, got 1, 64, 32"),
        ("min = 1", "min = true", "batches[0].min must be an integer, got True"),
        ("crops = 20", "crops = 0", "parity.crops must be an integer >= 1, got 0"),
        ("rendered = 8", "rendered = -1", "parity.rendered must be an integer from 0 to 2000, got -1"),
        ("largest_batch = 32", "largest_batch = 0", "parity.largest_batch must be an integer >= 1, got 0"),
        (
            "[[batches]]",
            "[int8]\ncalibration_crops = 0\n[[batches]]",
            "int8.calibration_crops must be an integer from 1 to 2000",
        ),
        ("[[batches]]", "[int8]\ncrops = 9\n[[batches]]", "int8.crops is an unknown key"),
        ('precision = "fp32"', 'precision = "fp16"\nint8 = {}', "precision must be 'fp32' for 8-bit graphs"),
        ('backend = "onnxruntime"', 'backend = "tpu"', "parity.backend must be one of"),
        ("tie_margin = 1e-3", "tie_margin = -1", "parity.tie_margin must be a number > 0, got -1"),
        ("log_prob_max = 5e-2", "log_prob_max = nan", "parity.log_prob_max must be a number > 0, got nan"),
        ("log_prob_max = 5e-2", "log_prob_max = inf", "parity.log_prob_max must be a number"),
        ("log_prob_max = 5e-2", 'log_prob_max = "5e-2"', "parity.log_prob_max must be a number, got '5e-2'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, ours: str, theirs: str, message: str) -> None:
    assert ours in FP32
    file = tmp_path / "mine.toml"
    file.write_text(FP32.replace(ours, theirs))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    said = str(caught.value)
    assert said.startswith(f"{file}: {message}")
    assert "export/fp32.toml" in said
    assert "\n" not in said


def test_a_table_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('format = 1\nname = "mine"\nprecision = "fp32"\nopset = 20\nparity = 8\n')
    with pytest.raises(RecipeError, match="parity must be a table, got 8"):
        load_recipe(file)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe .*fp16, fp32, int8.* got 'int4'"):
        load_recipe("int4")
    file = tmp_path / "mine.toml"
    file.write_bytes(b"format = \xff")
    with pytest.raises(RecipeError, match=r"mine\.toml .*TOML"):
        load_recipe(file)
