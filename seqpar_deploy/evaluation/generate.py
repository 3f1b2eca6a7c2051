"""Run a model over a data set. A checkpoint in PyTorch and a bundle on any backend run through the same code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends import Backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.probabilities import attribute_probabilities
from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Generation, Strategy
from seqpar_deploy.errors import DatasetError, ImageError, SeqparError
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.recognizer import largest_batch
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is ready to run.

    Attributes:
        name: Name of the model in results.
        kind: "checkpoint" or "bundle".
        precision: Precision of the weights, for example "fp32".
        sha256: Hash of the checkpoint, or of the bundle's manifest.
        label_set: The model's attributes.
        image_size: Side of the model's input in pixels.
        max_rows: Largest number of rows per decoder batch.
        backend: Runs the two graphs.
    """

    name: str
    kind: str
    precision: str
    sha256: str
    label_set: LabelSet
    image_size: int
    max_rows: int
    backend: Backend[Any]

    @classmethod
    def of_bundle(cls, bundle: Bundle, backend: Backend[Any]) -> Model:
        """Return the model of a bundle that is open on a backend. It is named as the bundle's folder."""
        return cls(
            name=bundle.path.resolve().name,
            kind="bundle",
            precision=bundle.precision,
            sha256=bundle.digest,
            label_set=bundle.label_set,
            image_size=bundle.dimensions.image_size,
            max_rows=bundle.max_batch,
            backend=backend,
        )


def generate(
    model: Model,
    dataset: Dataset,
    strategy: Strategy,
    *,
    batch_size: int | None = None,
    progress: OnProgress | None = None,
    unreadable: dict[int, SeqparError] | None = None,
) -> list[Generation]:
    """Generate one sequence per person of a data set, in its order.

    Args:
        model: The model to run.
        dataset: The people, labelled with the model's attributes.
        strategy: The decoding strategy.
        batch_size: Crops per batch. Default: the largest that model and backend allow.
        progress: Called after each batch with people done and people in total. Default: None.
        unreadable: Receives the error of each person whose picture cannot be read, by row. These people are left out.
            Default: None, the first such error is raised.

    Returns:
        One generation per person that is not left out, in the data set's order.

    Raises:
        DatasetError: The attributes of data set and model differ, or a box lies outside its picture.
        ImageError: A picture cannot be read.
    """
    _check_attributes(model.label_set, dataset)
    size = largest_batch(model.max_rows, model.backend, strategy, batch_size)
    generations: list[Generation] = []
    for end, batch in _batches(model, dataset, size, unreadable):
        state = model.backend.encode(batch)
        generations += strategy.generate(model.backend, state, max_steps=len(model.label_set))
        if progress:
            progress(end, len(dataset))
    return generations


def attributes_of(generations: Sequence[Generation], attributes: int) -> npt.NDArray[np.bool_]:
    """Return the attributes that each sequence contains, bool (M, n). As published, order and repeats do not count."""
    named = np.zeros((len(generations), attributes), dtype=np.bool_)
    for row, generation in enumerate(generations):
        named[row, [token - FIRST_ATTRIBUTE for token in generation.tokens if token >= FIRST_ATTRIBUTE]] = True
    return named


def probabilities_of(generations: Sequence[Generation]) -> npt.NDArray[np.float32]:
    """Return the probability of each attribute in each sequence, float32 (M, n), not calibrated."""
    return np.array([attribute_probabilities(one.tokens, one.distributions) for one in generations])


def _batches(
    model: Model, dataset: Dataset, size: int, unreadable: dict[int, SeqparError] | None
) -> Iterator[tuple[int, Crop]]:
    """Yield (people so far, prepared crops (B, H, W, 3)). The next batch is read while the current one runs."""

    def read(start: int) -> Crop | None:
        crops = []
        for person in range(start, min(start + size, len(dataset))):
            try:
                crops.append(dataset.crop(person))
            except (ImageError, DatasetError) as error:
                if unreadable is None:
                    raise
                unreadable[person] = error
        if not crops:
            return None
        return prepare_batch(crops, image_size=model.image_size, preprocessing=model.label_set.preprocessing)

    with ThreadPoolExecutor(max_workers=1) as reader:
        following = reader.submit(read, 0)
        for start in range(size, len(dataset) + size, size):
            batch = following.result()
            if start < len(dataset):
                following = reader.submit(read, start)
            if batch is not None:
                yield min(start, len(dataset)), batch


def _check_attributes(label_set: LabelSet, dataset: Dataset) -> None:
    expected, got = ([attribute.name for attribute in labels.attributes] for labels in (label_set, dataset.label_set))
    if got != expected:
        raise DatasetError(
            f"labels of {dataset.name} must be the model's {len(expected)} attributes of {label_set.name}, in its "
            f"order, got {len(got)} of {dataset.label_set.name}; check --label-set and --data"
        )
