"""Run a model over a data set. A checkpoint in PyTorch and a bundle on any backend run through the same code."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.ahead import map_ahead
from seqpar_deploy.backends import Backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.probabilities import attribute_probabilities
from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Generation, Strategy
from seqpar_deploy.decoding.choice import largest_batch
from seqpar_deploy.errors import DatasetError, ImageError, SeqparError
from seqpar_deploy.preprocess import CropBatch, Trimming, default_columns, prepare_by_columns
from seqpar_deploy.progress import OnProgress
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
        trimming: How crops are trimmed. Default: None, they are read with all their padding.
    """

    name: str
    kind: str
    precision: str
    sha256: str
    label_set: LabelSet
    image_size: int
    max_rows: int
    backend: Backend[Any]
    trimming: Trimming | None = None

    def with_all_padding(self) -> Model:
        """Return the model as it was before it was redefined as trimmed."""
        return dataclasses.replace(self, trimming=None)

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
            trimming=bundle.trimming,
        )


def redefined_as_trimmed(model: Model, *, grid: int) -> Model:
    """Return a model that reads trimmed crops, with the weights of one that was made for crops with all padding.

    Args:
        model: The model, which reads crops with all padding.
        grid: Patches per side of its input.

    Raises:
        DatasetError: The model is trimmed already, or does not pad crops.
    """
    if model.trimming is not None:
        raise DatasetError(f"--trim needs a model that is not trimmed, got {model.name}, which is; omit --trim")
    if model.label_set.preprocessing.pad == "none":
        raise DatasetError(f"--trim needs a model that pads crops, got {model.name} with pad 'none'; omit --trim")
    trimming = Trimming(columns=default_columns(grid), patch_size=model.image_size // grid)
    return dataclasses.replace(model, trimming=trimming)


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
    all_generations: list[Generation] = []
    for end, batches in _batches(model, dataset, size, unreadable):
        generations: dict[int, Generation] = {}
        for rows, batch in batches:
            state = model.backend.encode(batch)
            found = strategy.generate(model.backend, state, max_steps=len(model.label_set))
            generations |= zip(rows, found, strict=True)
        all_generations += [generations[row] for row in sorted(generations)]
        if progress:
            progress(end, len(dataset))
    return all_generations


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
) -> Iterator[tuple[int, list[tuple[list[int], CropBatch]]]]:
    """Yield (people so far, batches of rows and prepared crops (B, H, W, 3)). The next ones are read meanwhile."""
    trimming, preprocessing = model.trimming, model.label_set.preprocessing
    ahead = size if trimming is None else size * len(trimming.columns)  # so that batches of one width are full

    def read(start: int) -> list[tuple[list[int], CropBatch]]:
        crops = []
        for person in range(start, min(start + ahead, len(dataset))):
            try:
                crops.append(dataset.crop(person))
            except (ImageError, DatasetError) as error:
                if unreadable is None:
                    raise
                unreadable[person] = error
        return list(
            prepare_by_columns(crops, size, trimming=trimming, image_size=model.image_size, preprocessing=preprocessing)
        )

    starts = range(0, len(dataset), ahead)
    with contextlib.closing(map_ahead(read, starts)) as in_order:
        for start, batches in zip(starts, in_order, strict=True):
            if batches:
                yield min(start + ahead, len(dataset)), batches


def _check_attributes(label_set: LabelSet, dataset: Dataset) -> None:
    expected, got = ([attribute.name for attribute in labels.attributes] for labels in (label_set, dataset.label_set))
    if got != expected:
        raise DatasetError(
            f"labels of {dataset.name} must be the model's {len(expected)} attributes of {label_set.name}, in its "
            f"order, got {len(got)} of {dataset.label_set.name}; check --label-set and --data"
        )
