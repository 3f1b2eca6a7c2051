"""Training pictures. Their order and augmentation depend on the seed and the step only.

So a run that was killed resumes with exactly the pictures of an undisturbed run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.preprocess import Preprocessing, prepare
from seqpar_deploy.training.augment import vary_crop, vary_prepared
from seqpar_deploy.training.recipe import Augmentation

Key = tuple[int, int, int]  # source, person, how often this person was shown before

_ORDER, _PICTURE = 0, 1  # so that no two random streams are the same


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, and its share of each epoch relative to the shares of the others."""

    dataset: Dataset
    share: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The people of each step."""

    sources: Sequence[Source]
    pictures_per_epoch: int  # 0: each picture once
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """The last batch of an epoch is left out if it is not full, unless it is the only one."""
        return max(1, self._pictures // self.batch_size)

    @property
    def _pictures(self) -> int:
        return self.pictures_per_epoch or sum(len(source.dataset) for source in self.sources)

    def epoch(self, epoch: int) -> list[list[Key]]:
        """The batches of one epoch."""
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
        """(person, round) of one source, from the `start`-th on: its people in one random order after another, so that
        no person is shown twice per round, and each showing gets another augmentation."""
        end = start + take
        for turn in range(start // people, math.ceil(end / people)) if people else ():
            order = np.random.default_rng([self.seed, _ORDER, number, turn, 1]).permutation(people)
            for person in order[max(start - turn * people, 0) : end - turn * people]:
                yield int(person), turn


class _Pictures(TorchDataset[tuple[Any, Any]]):
    """Prepared, augmented pictures (H, W, 3) uint8 and labels (n,) int8 by key. A picture that cannot be read gives its
    error. Lives in the loader's processes."""

    def __init__(
        self, schedule: Schedule, image_size: int, preprocessing: Preprocessing, augmentation: Augmentation
    ) -> None:
        self._schedule, self._image_size = schedule, image_size
        self._preprocessing, self._augmentation = preprocessing, augmentation

    def __getitem__(self, key: Key) -> tuple[Any, Any]:
        number, person, turn = key
        dataset = self._schedule.sources[number].dataset
        rng = np.random.default_rng([self._schedule.seed, _PICTURE, number, person, turn])
        try:
            crop = dataset.crop(person)
        except SeqparError as error:  # returned, not raised: the loader would turn it into a traceback
            return error, None
        crop = vary_crop(crop, self._augmentation, rng)
        image = prepare(crop, image_size=self._image_size, preprocessing=self._preprocessing)
        return vary_prepared(image, self._augmentation, rng), dataset.labels[person]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loader:
    """Batches of a schedule, prefetched by `workers` processes; of each batch, this process's part."""

    schedule: Schedule
    image_size: int
    preprocessing: Preprocessing
    augmentation: Augmentation
    workers: int = 0
    rank: int = 0
    world: int = 1

    def batches(self, first_step: int, last_step: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield crops uint8 (B, H, W, 3) and labels int8 (B, n) of steps `first_step` to `last_step` - 1.

        Raises ImageError, DatasetError. Close it if it is not read to its end: its processes ignore signals.
        """
        pictures = _Pictures(self.schedule, self.image_size, self.preprocessing, self.augmentation)
        loader = DataLoader(
            pictures,
            batch_sampler=_Steps(self, first_step, last_step),
            num_workers=self.workers,
            # Not forked: a forked process whose runtimes hold threads may die without an error.
            multiprocessing_context="spawn" if self.workers else None,
            collate_fn=_collate,
            worker_init_fn=_quiet_worker,
        )
        iterator = iter(loader)
        try:
            for batch in iterator:
                if isinstance(batch, SeqparError):
                    raise batch
                yield batch
        finally:
            # If an exception's traceback keeps the iterator alive, waiting for its processes would never end.
            getattr(iterator, "_shutdown_workers", lambda: None)()


@dataclasses.dataclass(frozen=True)
class _Steps:
    loader: Loader
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        schedule = self.loader.schedule
        per_epoch = schedule.steps_per_epoch
        batches: list[list[Key]] = []
        for step in range(self.first, self.last):
            epoch, within = divmod(step, per_epoch)
            if step == self.first or within == 0:
                batches = schedule.epoch(epoch)
            yield batches[within][self.loader.rank :: self.loader.world]


def _collate(rows: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor] | SeqparError:
    for first, _ in rows:
        if isinstance(first, SeqparError):
            return first
    images, labels = zip(*rows, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def _quiet_worker(_worker: int) -> None:
    """Only the main process handles signals: a worker that dies of one ends the run before its state is saved."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
