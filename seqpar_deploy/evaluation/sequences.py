"""Files of generated sequences, to compare two runs. They have one JSON object per person:

{"image": "images/000001.png", "attributes": ["Female", "Front"], "tokens": [3, 7, 1]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.datasets.annotations import json_mistake
from seqpar_deploy.decoding import Generation
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.prediction import prediction_from_generation

_NAMES = 3  # pictures to list in a message


def sequences_to_jsonl(dataset: Dataset, generations: Sequence[Generation]) -> str:
    """Return the text of a sequence file. It names pictures by folder and file, not by full path."""
    lines = []
    for image, generation in zip(picture_names(dataset), generations, strict=True):
        attributes = prediction_from_generation(generation, dataset.label_set).attributes
        values = {"image": image, "attributes": attributes, "tokens": generation.tokens}
        lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    return "".join(lines)


def read_sequences(path: Path, dataset: Dataset) -> list[tuple[int, ...]]:
    """Return the tokens in a sequence file of an earlier run over the same people. Raises DatasetError."""
    images: list[Any] = []
    tokens: list[tuple[int, ...]] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            images.append(row["image"])
            tokens.append(tuple(int(token) for token in row["tokens"]))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise _not_sequences(path, f"line {len(tokens) + 1} with {json_mistake(error)}") from None
    except UnicodeDecodeError as error:
        raise _not_sequences(path, json_mistake(error)) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise _not_sequences(path, f"line {len(tokens) + 1} without a list of tokens") from None
    if images != picture_names(dataset):
        raise DatasetError(
            f"{path} must contain the sequences of the {len(dataset)} people of {dataset.name} {dataset.split}, got "
            f"{len(images)} others; compare runs over the same data, split and --limit"
        )
    return tokens


def _not_sequences(path: Path, got: str) -> DatasetError:
    return DatasetError(
        f'{path} must have one object with "image" and "tokens" per line, as --predictions writes, got {got}'
    )


def differing(dataset: Dataset, generations: Sequence[Generation], earlier: Sequence[tuple[int, ...]]) -> list[str]:
    """Return the pictures whose tokens, `<eos>` included, differ from an earlier run's."""
    names = picture_names(dataset)
    return [
        name
        for name, generation, tokens in zip(names, generations, earlier, strict=True)
        if generation.tokens != tokens
    ]


def describe_difference(names: Sequence[str], people: int, against: str) -> str:
    """Describe the difference to an earlier run in one line."""
    if not names:
        return f"all {people} sequences equal those in {against}"
    shown = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")
    return f"{len(names)} of {people} sequences differ from those in {against}: {shown}"


def picture_names(dataset: Dataset) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in dataset.images]
