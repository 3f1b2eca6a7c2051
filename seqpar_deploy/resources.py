"""Find the data files that ship with the package: label sets, recipes and sample crops.

A wheel has them in `seqpar_deploy/_data/`. A checkout has them in its root folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqpar_deploy.config import parse_toml
from seqpar_deploy.errors import LabelSetError, RecipeError, SeqparError
from seqpar_deploy.vocab import LabelSet

_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """Return the path of the data folder `models`, `export`, `train` or `samples`."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def sample_crops() -> list[Path]:
    """Return the sorted paths of the sample person crops. samples/README.md names their source."""
    return sorted((data_dir("samples") / "crops").glob("*.png"))


def label_set_names() -> list[str]:
    """Return the names of the label sets that ship with the package."""
    return sorted(path.stem for path in data_dir("models").glob("*.toml"))


def load_label_set(name_or_path: str | Path, *, sentences: bool = False) -> LabelSet:
    """Load a label set.

    Args:
        name_or_path: The name of a label set that ships, for example `peta`, or the path of your own TOML file.
        sentences: Use the set's full sentences as phrases for the text tower. Default: False, its short phrases.

    Returns:
        The label set.

    Raises:
        LabelSetError: The label set cannot be found or read, or has no sentences.
    """
    path = _find(name_or_path, "models", label_set_names(), LabelSetError, "label set")
    values = _read_toml(path, LabelSetError)
    return LabelSet.from_dict(values, source=str(name_or_path), sentences=sentences, known_keys_only=True)


def recipe_names() -> list[str]:
    """Return the names of the export recipes that ship with the package."""
    return sorted(path.stem for path in data_dir("export").glob("*.toml"))


def read_recipe_toml(name_or_path: str | Path) -> dict[str, Any]:
    """Read the raw values of an export recipe, by name (`fp16`) or path. Raises RecipeError."""
    path = _find(name_or_path, "export", recipe_names(), RecipeError, "recipe")
    return _read_toml(path, RecipeError)


def training_recipe_names() -> list[str]:
    """Return the names of the training recipes that ship with the package."""
    return sorted(path.stem for path in data_dir("train").glob("*.toml"))


def read_training_recipe_toml(name_or_path: str | Path) -> dict[str, Any]:
    """Read the raw values of a training recipe, by name (`published`) or path. Raises RecipeError."""
    path = _find(name_or_path, "train", training_recipe_names(), RecipeError, "training recipe")
    return _read_toml(path, RecipeError)


def _find(name_or_path: str | Path, folder: str, names: list[str], error: type[SeqparError], kind: str) -> Path:
    if str(name_or_path) in names:
        return data_dir(folder) / f"{name_or_path}.toml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise error(f"{kind} must be a TOML file or one of {', '.join(names)}, got {str(name_or_path)!r}; check the name")


def _read_toml(path: Path, error: type[SeqparError]) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}") from None
    return parse_toml(content, source=str(path), error=error)
