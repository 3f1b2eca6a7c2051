"""The training loop: teacher forcing, AdamW, validation by generation, a state to resume from.

Everything random in it is a function of the seed and the step, and every step leaves nothing behind but what
`state.py` stores. So a run that was killed, at whatever moment, ends with the weights it would have ended with.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.errors import TrainingError
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.eager import CachedEagerBackend, normalise
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.training.loader import Loader, Schedule, Source
from seqpar_deploy.training.optimisers import learning_rate, make_optimisers
from seqpar_deploy.training.recipe import TrainingRecipe
from seqpar_deploy.training.report import write_log
from seqpar_deploy.training.state import TrainingState, load_state, optimiser_tensors, restore_optimisers, save_state
from seqpar_deploy.training.targets import presence_loss, sequence_loss, sequences_from_labels
from seqpar_deploy.vocab import PAD, LabelSet

BEST_MA, BEST_F1, LAST = "best-ma.safetensors", "best-f1.safetensors", "last.safetensors"

_VALIDATION_BATCH = 64
_PRESENCE = 1 << 31  # no step's number, so that no two random streams are the same
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: what is trained, on what, where it writes. `validate_every` and `save_every` count epochs
    and seconds."""

    recipe: TrainingRecipe
    label_set: LabelSet
    sources: tuple[Source, ...]
    validation: Dataset | None
    out: Path
    seed: int = 0
    workers: int = 0
    validate_every: int = 1
    save_every: float = 300.0

    def identity(self) -> dict[str, Any]:
        """What a stored state must agree with to be gone on with."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(f"{source.share} {len(source.dataset)}".encode())
            digest.update(source.dataset.labels.tobytes())
            for image in source.dataset.images:
                digest.update(image.name.encode())
        return {
            "recipe": self.recipe.to_dict(),
            "label_set": self.label_set.name,
            "phrases": list(self.label_set.phrases),
            "data": digest.hexdigest(),
            "seed": self.seed,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """This process among those that `torchrun` started; alone without it."""

    rank: int
    world: int
    device: torch.device


@contextlib.contextmanager
def joined_processes() -> Iterator[Process]:
    """Join the processes that `torchrun` started, one a GPU (or on CPUs, for tests)."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(rank=rank, world=world, device=device)
    finally:
        if world > 1:
            torch.distributed.destroy_process_group()


def train(run: Run, model: SequencePAR, process: Process, *, progress: Progress) -> Iterator[dict[str, Any]]:
    """Train until the recipe's last epoch, going on from the state in `run.out` if there is one.

    Yields a row of the log after each epoch: epoch, learning_rate, loss, images_per_second, waiting (the share of time
    the loop waited for pictures), and on validated epochs ma, accuracy, precision, recall, f1. `progress` takes steps.

    Raises TrainingError. Ctrl-C and SIGTERM are answered after the step at hand, with the state saved.
    """
    return _Training(run, model, process, progress).epochs()


class _Training:
    def __init__(self, run: Run, model: SequencePAR, process: Process, progress: Progress) -> None:
        self.run, self.process, self.progress = run, process, progress
        self.optimiser_recipe = run.recipe.optimiser
        taught = _Taught(model, run.label_set, presence=self.optimiser_recipe.presence > 0, seed=run.seed)
        taught.to(process.device).train()
        self.taught, self.model = taught, taught.model
        self.names = {id(parameter): name for name, parameter in taught.named_parameters()}
        self.optimisers = make_optimisers(taught, self.optimiser_recipe)
        scaled = self.optimiser_recipe.precision == "fp16" and process.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=scaled)
        self.schedule = Schedule(
            sources=run.sources,
            pictures_per_epoch=run.recipe.pictures_per_epoch,
            batch_size=self.optimiser_recipe.batch_size,
            seed=run.seed,
        )
        self.average = (
            {name: value.detach().clone() for name, value in model.state_dict().items()}
            if self.optimiser_recipe.average
            else None
        )
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._restore()
        self.forward: nn.Module = taught
        if process.world > 1:
            ids = [process.device.index] if process.device.type == "cuda" else None
            self.forward = DistributedDataParallel(taught, device_ids=ids)

    def epochs(self) -> Iterator[dict[str, Any]]:
        per_epoch = self.schedule.steps_per_epoch
        total = per_epoch * self.optimiser_recipe.epochs
        run = self.run
        loader = Loader(
            schedule=self.schedule,
            image_size=self.model.architecture.image_size,
            preprocessing=run.label_set.preprocessing,
            augmentation=run.recipe.augmentation,
            workers=run.workers,
            rank=self.process.rank,
            world=self.process.world,
        )
        batches = loader.batches(self.step, total)
        meter, saved = _Meter(), time.monotonic()
        with contextlib.closing(batches), _deferred_interrupt() as interrupted:
            for crops, labels in meter.watch(batches):
                loss = self._train_step(crops, labels)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"the loss is {loss} at step {self.step}; lower the learning rate, or train in fp32 or bf16"
                    )
                meter.add(loss, len(crops) * self.process.world)
                self.step += 1
                self.progress(self.step, total)
                if self.step % per_epoch == 0:
                    row = self._finish_epoch(meter)
                    self._save()
                    meter, saved = _Meter(), time.monotonic()
                    yield row
                elif interrupted.is_set() or time.monotonic() - saved > run.save_every:
                    self._save()
                    saved = time.monotonic()
                if interrupted.is_set():
                    raise KeyboardInterrupt

    def _train_step(self, crops: Tensor, labels: Tensor) -> float:
        """One update of the weights; returns the mean loss a target."""
        recipe, device = self.optimiser_recipe, self.process.device
        inputs, targets = sequences_from_labels(labels, eos=recipe.eos)
        count = int((targets != PAD).sum())
        share = learning_rate(recipe, self.step, self.schedule.steps_per_epoch) / recipe.learning_rate
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = share * group["full_rate"]
        torch.manual_seed(_seed(self.run.seed, self.step, self.process.rank))  # of dropout
        self.taught.zero_grad(set_to_none=True)
        total = 0.0
        parts = torch.arange(len(crops)).chunk(recipe.accumulate)
        for number, part in enumerate(parts):
            images = normalise(crops[part].to(device, non_blocking=True), self.run.label_set.preprocessing)
            last = number == len(parts) - 1
            with self._gradients_kept_here() if not last else contextlib.nullcontext():
                with torch.autocast(device.type, _AUTOCAST.get(recipe.precision), enabled=recipe.precision != "fp32"):
                    log_probs, presence = self.forward(images, inputs[part].to(device))
                known = labels[part].to(device)
                loss = sequence_loss(log_probs, targets[part].to(device), known, label_smoothing=recipe.label_smoothing)
                total += float(loss.detach()) / count
                if presence is not None:
                    loss = loss + recipe.presence * presence_loss(presence, known)
                self.scaler.scale(loss / count).backward()
        for optimiser in self.optimisers:
            self.scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(self.taught.parameters(), recipe.clip_norm)
        for optimiser in self.optimisers:
            self.scaler.step(optimiser)
        self.scaler.update()
        if self.average is not None:
            self._update_average(self.average)
        return total

    def _gradients_kept_here(self) -> contextlib.AbstractContextManager[None]:
        """Gradients of a part of the batch are added up first, and exchanged between processes with the last part."""
        forward = self.forward
        return forward.no_sync() if isinstance(forward, DistributedDataParallel) else contextlib.nullcontext()

    @torch.no_grad()
    def _update_average(self, average: dict[str, Tensor]) -> None:
        # The first steps' weights are worth little, so that the average forgets them faster.
        decay = min(self.optimiser_recipe.average, (1 + self.step) / (10 + self.step))
        values = dict(self.model.state_dict())
        floating = [name for name in average if average[name].is_floating_point()]
        torch._foreach_lerp_([average[name] for name in floating], [values[name] for name in floating], 1 - decay)

    def _finish_epoch(self, meter: _Meter) -> dict[str, Any]:
        epoch = self.step // self.schedule.steps_per_epoch
        row: dict[str, Any] = {
            "epoch": epoch,
            "learning_rate": learning_rate(self.optimiser_recipe, self.step - 1, self.schedule.steps_per_epoch),
            "loss": meter.loss,
            "images_per_second": meter.images_per_second,
            "waiting": meter.waiting,
        }
        last = epoch == self.optimiser_recipe.epochs
        if self.process.rank == 0:
            model = self._averaged_model()
            due = last or epoch % self.run.validate_every == 0
            if self.run.validation is not None and due:
                metrics = validate(model, self.run.label_set, self.run.validation)
                row |= {name: getattr(metrics, name) for name in ("ma", "accuracy", "precision", "recall", "f1")}
                for score, file in (("ma", BEST_MA), ("f1", BEST_F1)):
                    if row[score] > max((earlier.get(score, -1.0) for earlier in self.history), default=-1.0):
                        self._save_checkpoint(file, model, row)
            if last:
                self._save_checkpoint(LAST, model, row)
            self.history.append(row)
            write_log(self.run.out, self.history)
        if self.process.world > 1:
            torch.distributed.barrier()
        return row

    def _averaged_model(self) -> SequencePAR:
        model = copy.deepcopy(self.model)
        if self.average is not None:
            model.load_state_dict(self.average)
        return model.eval().requires_grad_(False)

    def _save_checkpoint(self, name: str, model: SequencePAR, row: dict[str, Any]) -> None:
        metadata = {"training": {"recipe": self.run.recipe.name, "seed": self.run.seed, **row}}
        try:
            save_checkpoint(self.run.out / name, model, self.run.label_set, dtype=torch.float32, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"{self.run.out / name} cannot be written: {error}; make room and resume") from None

    def _save(self) -> None:
        if self.process.rank == 0:
            tensors = {name: value.cpu().contiguous() for name, value in self.taught.state_dict().items()}
            tensors |= {f"average.{name}": value.cpu() for name, value in (self.average or {}).items()}
            tensors |= optimiser_tensors(self.optimisers, self.names)
            state = TrainingState(
                step=self.step,
                tensors=tensors,
                run=self.run.identity(),
                history=self.history,
                scaler=self.scaler.state_dict(),
            )
            save_state(self.run.out, state)

    def _restore(self) -> None:
        state = load_state(self.run.out, self.run.identity())
        if state is None:
            return
        values = state.tensors
        if missing := sorted({*self.taught.state_dict()} - {*values}):
            raise TrainingError(
                f"the state in {self.run.out} has no {missing[0]}: another version of this package wrote it; "
                "finish with that one, or train anew in another folder"
            )
        self.taught.load_state_dict({name: values[name] for name in self.taught.state_dict()})
        if self.average is not None:
            self.average = {name: values[f"average.{name}"].to(self.process.device) for name in self.average}
        restore_optimisers(self.optimisers, self.names, values)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.step, self.history = state.step, state.history


class _Taught(nn.Module):
    """What training sees of the network: teacher forcing, and a second look at the image tower that is thrown away.

    `presence`, where the recipe asks for it, tells each attribute from all image tokens side by side. Through the
    decoder alone a tower of random weights learns very slowly: queries look everywhere at once until tokens mean
    something, and tokens mean nothing until queries look somewhere.
    """

    def __init__(self, model: SequencePAR, label_set: LabelSet, *, presence: bool, seed: int) -> None:
        super().__init__()
        self.model, self._phrases = model, label_set.phrases
        architecture = model.architecture
        patches = (architecture.image_tokens - 1) * architecture.embed_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(seed, _PRESENCE))
            self.presence = nn.Linear(patches, architecture.attributes) if presence else None

    def forward(self, images: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (B, T, V) of what follows each token; logits (B, n) of each attribute's presence."""
        image_tokens = self.model.encode_image(images)
        token_table = self.model.token_table(self._phrases)  # made anew, so that the text tower is trained too
        log_probs, _ = self.model.decoder(inputs, token_table[inputs], self.model.decoder.cross_kv(image_tokens))
        return log_probs, None if self.presence is None else self.presence(image_tokens[:, 1:].flatten(1))


def validate(model: SequencePAR, label_set: LabelSet, dataset: Dataset) -> Metrics:
    """Scores of greedy generation on a data set."""
    with torch.inference_mode():
        token_table = model.token_table(label_set.phrases)
    scored = Model(
        name="training",
        kind="checkpoint",
        precision="fp32",
        sha256="",
        label_set=label_set,
        image_size=model.architecture.image_size,
        max_rows=_VALIDATION_BATCH,
        backend=CachedEagerBackend(model, token_table, label_set.preprocessing),
    )
    generations = generate(scored, dataset, Greedy())
    return compute_metrics(attributes_of(generations, len(label_set)), dataset.labels)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class _Meter:
    """Loss and speed since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._losses: list[float] = []
        self._images = 0
        self._waited = 0.0

    def watch(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - start
            yield batch

    def add(self, loss: float, images: int) -> None:
        self._losses.append(loss)
        self._images += images

    @property
    def loss(self) -> float:
        return sum(self._losses) / len(self._losses)

    @property
    def images_per_second(self) -> float:
        return self._images / (time.perf_counter() - self._start)

    @property
    def waiting(self) -> float:
        return self._waited / (time.perf_counter() - self._start)


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, so that the step at hand is finished; a second one interrupts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(_signal: int, _frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
