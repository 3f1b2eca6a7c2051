"""Generated sequences in a file, to compare two runs: one JSON object per person.

{"image": "images/000001.png", "attributes": ["Female", "Front"], "tokens": [3, 7, 1]}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Generation
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.recognizer import prediction_from_generation

_NAMES = 3  # pictures named in a message


def sequences_to_jsonl(dataset: Dataset, generations: Sequence[Generation]) -> str:
    """Return the lines of a sequence file. Pictures are named by their folder and file name, not by their full path."""
    lines = []
    for image, generation in zip(picture_names(dataset), generations, strict=True):
        attributes = prediction_from_generation(generation, dataset.label_set).attributes
        values = {"image": image, "attributes": attributes, "tokens": generation.tokens}
        lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    return "".join(lines)


def read_sequences(path: Path, dataset: Dataset) -> list[tuple[int, ...]]:
    """Read the tokens in a sequence file of an earlier run over the same people. Raises DatasetError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        images = [row["image"] for row in rows]
        tokens = [tuple(int(token) for token in row["tokens"]) for row in rows]
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} must be a file that --predictions wrote: {error}") from None
    if images != picture_names(dataset):
        raise DatasetError(
            f"{path} must hold sequences of the {len(dataset)} people of {dataset.name} {dataset.split}, got "
            f"{len(images)} others; compare runs over the same data, split and --limit"
        )
    return tokens


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
