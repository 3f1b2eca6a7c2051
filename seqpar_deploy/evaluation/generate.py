"""Run a model over a data set: a checkpoint in PyTorch and a bundle on any backend in the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends import Backend
from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Generation, Strategy
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.recognizer import largest_batch
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is ready to run, wherever it came from. `sha256` is the checkpoint's, or the bundle manifest's."""

    name: str
    kind: str  # checkpoint or bundle
    precision: str
    sha256: str
    label_set: LabelSet
    image_size: int  # pixels a side
    max_rows: int  # of a decoder batch
    backend: Backend[Any]


def generate(
    model: Model,
    dataset: Dataset,
    strategy: Strategy,
    *,
    batch_size: int | None = None,
    progress: OnProgress | None = None,
) -> list[Generation]:
    """Generate one sequence per person of a data set, in its order.

    Args:
        model: The model to run.
        dataset: The people, labelled with the model's attributes.
        strategy: The decoding strategy.
        batch_size: Crops per batch. Default: the largest the model and the backend allow.
        progress: Called after each batch with people done and people in total.

    Raises:
        DatasetError: The data set has other attributes than the model.
        ImageError: A picture cannot be read. Skipping it would score another test set.
    """
    _check_attributes(model.label_set, dataset)
    size = largest_batch(model.max_rows, model.backend, strategy, batch_size)
    generations: list[Generation] = []
    for batch in _batches(model, dataset, size):
        state = model.backend.encode(batch)
        generations += strategy.generate(model.backend, state, max_steps=len(model.label_set))
        if progress:
            progress(len(generations), len(dataset))
    return generations


def attributes_of(generations: Sequence[Generation], attributes: int) -> npt.NDArray[np.bool_]:
    """Return the attributes that each sequence names, bool (M, n). As published, order and repeats do not count."""
    named = np.zeros((len(generations), attributes), dtype=np.bool_)
    for row, generation in enumerate(generations):
        named[row, [token - FIRST_ATTRIBUTE for token in generation.tokens if token >= FIRST_ATTRIBUTE]] = True
    return named


def _batches(model: Model, dataset: Dataset, size: int) -> Iterator[Crop]:
    """Prepared crops (B, H, W, 3). The next batch is read while this one is run."""

    def read(start: int) -> Crop:
        crops = [dataset.crop(person) for person in range(start, min(start + size, len(dataset)))]
        return prepare_batch(crops, image_size=model.image_size, preprocessing=model.label_set.preprocessing)

    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(read, 0)
        for start in range(size, len(dataset) + size, size):
            batch = following.result()
            if start < len(dataset):
                following = reader.submit(read, start)
            yield batch


def _check_attributes(label_set: LabelSet, dataset: Dataset) -> None:
    wanted, got = ([attribute.name for attribute in labels.attributes] for labels in (label_set, dataset.label_set))
    if got != wanted:
        raise DatasetError(
            f"{dataset.name} must be labelled with the model's {len(wanted)} attributes of {label_set.name}, in that "
            f"order, got {len(got)} of {dataset.label_set.name}"
        )
