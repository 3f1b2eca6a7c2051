"""Loads training pictures. Order and augmentation depend only on the seed and the step.

Therefore a killed run resumes with exactly the pictures of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.preprocess import Crop, Preprocessing, Trimming, columns_read, prepare
from seqpar_deploy.training.augment import vary, vary_prepared
from seqpar_deploy.training.readers import read_ahead
from seqpar_deploy.training.recipe import Augmentation

if TYPE_CHECKING:
    from torch import Tensor

_Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8], npt.NDArray[np.int64]]
Key = tuple[int, int, int]  # source, person, number of earlier uses of this person

_ORDER, _PICTURE = 0, 1  # parts of seeds, so that random streams differ


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data set to train on.

    Attributes:
        dataset: The data set.
        share: Its share of each epoch, relative to the other sources. Default: 1.
    """

    dataset: Dataset
    share: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The people of each step.

    Attributes:
        sources: The data sets.
        pictures_per_epoch: Pictures per epoch. 0: each picture once.
        batch_size: Pictures per step.
        seed: Seed of the order.
    """

    sources: Sequence[Source]
    pictures_per_epoch: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps per epoch. A partial last batch is dropped, unless it is the only one."""
        return max(1, self._pictures // self.batch_size)

    @property
    def _pictures(self) -> int:
        return self.pictures_per_epoch or sum(len(source.dataset) for source in self.sources)

    def epoch(self, epoch: int) -> list[list[Key]]:
        """Return the batches of one epoch."""
        total_share = sum(source.share for source in self.sources)
        keys: list[Key] = []
        for number, source in enumerate(self.sources):
            take = round(self._pictures * source.share / total_share) if self._weighted else len(source.dataset)
            keys += [(number, *sight) for sight in self._sights(number, len(source.dataset), epoch * take, take)]
        order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(keys))
        size, steps = self.batch_size, self.steps_per_epoch
        return [[keys[i] for i in order[step * size : (step + 1) * size]] for step in range(steps)]

    @property
    def _weighted(self) -> bool:
        return self.pictures_per_epoch > 0

    def _sights(self, number: int, people: int, start: int, take: int) -> Iterator[tuple[int, int]]:
        """Yield (person, round) of one source, from the `start`-th on.

        Each round has every person once, in another random order and with another augmentation.
        """
        end = start + take
        for turn in range(start // people, math.ceil(end / people)) if people else ():
            order = np.random.default_rng([self.seed, _ORDER, number, turn, 1]).permutation(people)
            for person in order[max(start - turn * people, 0) : end - turn * people]:
                yield int(person), turn


class _Pictures:
    """Read, prepare and augment the pictures of a batch. Used in the loader's processes."""

    def __init__(
        self,
        schedule: Schedule,
        image_size: int,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        trimming: Trimming | None,
    ) -> None:
        self._schedule, self._image_size = schedule, image_size
        self._preprocessing, self._augmentation, self._trimming = preprocessing, augmentation, trimming

    def batch(self, keys: Sequence[Key]) -> _Batch:
        images, labels, columns = zip(*map(self._read, keys), strict=True)
        return np.stack(images), np.stack(labels), np.array(columns)

    def _read(self, key: Key) -> tuple[Crop, npt.NDArray[np.int8], int]:
        number, person, turn = key
        dataset = self._schedule.sources[number].dataset
        rng = np.random.default_rng([self._schedule.seed, _PICTURE, number, person, turn])
        crop = vary(dataset.crop(person), self._augmentation, rng)
        image = prepare(crop, image_size=self._image_size, preprocessing=self._preprocessing)
        columns = columns_read(crop, self._trimming, self._preprocessing)
        if self._trimming is not None:  # the shift must not move the person out of what is kept
            kept = self._trimming.trim(image, columns)
            kept[...] = vary_prepared(kept, self._augmentation, rng)
        else:
            image = vary_prepared(image, self._augmentation, rng)
        return image, dataset.labels[person], columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader:
    """Loads the batches of a schedule, in `workers` processes.

    Attributes:
        schedule: The people of each step.
        image_size: Side of the model's input in pixels.
        preprocessing: Preprocessing of the label set.
        augmentation: Augmentation of the recipe.
        trimming: Trimming of the model. Default: None, crops keep all their padding.
        workers: Processes that read ahead. Default: 0, none.
        rank: Index of this training process, which gets a part of each batch. Default: 0.
        world: Number of training processes. Default: 1.
    """

    schedule: Schedule
    image_size: int
    preprocessing: Preprocessing
    augmentation: Augmentation
    trimming: Trimming | None = None
    workers: int = 0
    rank: int = 0
    world: int = 1

    def batches(self, first_step: int, last_step: int) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
        """Yield crops, labels and widths of steps `first_step` to `last_step` - 1.

        Crops are whole squares, uint8 (B, H, W, 3). Labels are int8 (B, n). Widths are the patch columns in the middle
        of each square that the model reads, int64 (B,), or 0 if it reads all.

        Close the generator if it is not read to the end: this ends its processes, which ignore signals.

        Raises:
            ImageError: A picture cannot be read.
            DatasetError: A file of the data set cannot be read.
            TrainingError: A process of the loader ended, or did not answer within 10 minutes.
        """
        import torch  # here, so that the loader's processes start without it

        pictures = _Pictures(self.schedule, self.image_size, self.preprocessing, self.augmentation, self.trimming)
        steps = self._steps(first_step, last_step)
        read = read_ahead(pictures.batch, steps, workers=self.workers) if self.workers else map(pictures.batch, steps)
        with contextlib.closing(read) if isinstance(read, Generator) else contextlib.nullcontext():
            for images, labels, columns in read:
                yield torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(columns)

    def _steps(self, first: int, last: int) -> Iterator[list[Key]]:
        per_epoch = self.schedule.steps_per_epoch
        batches: list[list[Key]] = []
        for step in range(first, last):
            epoch, within = divmod(step, per_epoch)
            if step == first or within == 0:
                batches = self.schedule.epoch(epoch)
            yield batches[within][self.rank :: self.world]
