"""The training loop: teacher forcing, AdamW, validation by generation, a state to resume from.

All random numbers are functions of the seed and the step, and `state.py` stores everything else that a step changes.
Therefore a killed run resumes to the same weights as an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seqpar_deploy.errors import SeqparError, TrainingError
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.machine import has_bf16
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.eager import normalise
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.training.loader import Loader, Schedule
from seqpar_deploy.training.meter import Meter
from seqpar_deploy.training.network import TeacherForced, derived_seed
from seqpar_deploy.training.optimisers import learning_rate, make_optimisers
from seqpar_deploy.training.peers import Interrupted, Peers, Stopped, Vote, lost_peers
from seqpar_deploy.training.recipe import Precision
from seqpar_deploy.training.run import Process, Run
from seqpar_deploy.training.run_files import check_folder, learning_curves, write_log, write_recipe
from seqpar_deploy.training.state import (
    TrainingState,
    check_room,
    load_state,
    moments_size,
    not_written,
    optimiser_tensors,
    restore_optimisers,
    save_state,
)
from seqpar_deploy.training.targets import presence_loss, sequence_loss, sequences_from_labels
from seqpar_deploy.training.validation import validate
from seqpar_deploy.vocab import PAD

BEST_MA, BEST_F1, LAST = "best-ma.safetensors", "best-f1.safetensors", "last.safetensors"

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SCORES = ("ma", "accuracy", "precision", "recall", "f1")

_log = logging.getLogger(__name__)


def train(run: Run, model: SequencePAR, process: Process, *, progress: OnProgress) -> Iterator[dict[str, Any]]:
    """Train until the recipe's last epoch. If `run.out` contains a state of this run, training resumes from it.

    The function writes all files of the run. After SIGINT, SIGTERM or SIGHUP it finishes the current step, or abandons
    a wait or a validation, saves the state and raises KeyboardInterrupt. Several processes stop at the same step.

    Args:
        run: The recipe, the data and the output folder.
        model: The network to start from, changed in place. A stored state replaces its weights.
        process: This process among those of `torchrun`.
        progress: Called after each step with steps done and steps in total.

    Returns:
        An iterator of one row per epoch: `epoch`, `learning_rate`, `loss` (per token), `images_per_second` and
        `waiting` (share of the time spent on waiting for pictures). After a validation also `ma`, `accuracy`,
        `precision`, `recall` and `f1`, 0 to 1.

    Raises:
        TrainingError: The folder contains another run, the loss is not finite, or a file cannot be written.
        KeyboardInterrupt: A signal ended the run.

    Example:
        with joined_processes() as process:
            for row in train(run, model, process, progress=lambda done, total: None):
                print(row["epoch"], row["loss"])
    """
    training = _Training(run, model, process, progress)
    if process.rank == 0:
        write_recipe(run.out, run.identity())
    return training.epochs()


class _Training:
    def __init__(self, run: Run, model: SequencePAR, process: Process, progress: OnProgress) -> None:
        self.run, self.process, self.progress = run, process, progress
        self.optimiser_recipe = run.recipe.optimiser
        self.precision = _available_precision(self.optimiser_recipe.precision, process)
        taught = TeacherForced(model, run.label_set, presence=self.optimiser_recipe.presence > 0, seed=run.seed)
        taught.to(process.device).train()
        self.taught, self.model = taught, taught.model
        self.names = {id(parameter): name for name, parameter in taught.named_parameters()}
        self.optimisers = make_optimisers(taught, self.optimiser_recipe)
        scaled = self.precision == "fp16" and process.device.type == "cuda"
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
        self.signals: list[int] = []
        self.unfinished = False  # the last epoch of the history waits for its validation or checkpoint
        self.waiting = False
        self.peers = Peers(process.world, lambda: bool(self.signals))
        if process.rank == 0:
            self._log_start()
        self._restore()
        self.forward: nn.Module = taught
        if process.world > 1:
            ids = [process.device.index] if process.device.type == "cuda" else None
            with lost_peers():
                self.forward = DistributedDataParallel(taught, device_ids=ids)

    def _log_start(self) -> None:
        people = sum(len(source.dataset) for source in self.run.sources)
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        _log.info(
            "training %.1f million parameters on %s people in %s on %s",
            *(weights / 1e6, f"{people:,}", self.precision, self.process.device),
        )
        if names := self.run.unlabelled():
            _log.warning(
                "%d of the %d attributes are unknown for everyone and not trained: %s",
                *(len(names), len(self.run.label_set), ", ".join(names)),
            )

    def epochs(self) -> Iterator[dict[str, Any]]:
        with stop_on_signal(self._interrupt_wait) as self.signals, learning_curves(self.run.out) as draw:
            for row in self._epochs():
                if self.process.rank == 0:
                    draw()
                yield row

    def _interrupt_wait(self) -> None:
        if self.waiting:
            raise Interrupted

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Raise Interrupted in this block once a signal comes: the block waits, or can be done again."""
        self.waiting = True
        try:
            if self.signals:
                raise Interrupted
            yield
        finally:
            self.waiting = False

    def _epochs(self) -> Iterator[dict[str, Any]]:
        per_epoch = self.schedule.steps_per_epoch
        total = per_epoch * self.optimiser_recipe.epochs
        if self.unfinished:
            yield self._finish_epoch(self.history[-1])
        meter, saved = Meter(), time.monotonic()
        with contextlib.closing(self._loader().batches(self.step, total)) as batches:
            while self.step < total:
                crops, labels, columns = self._next(batches, meter)
                with lost_peers():
                    loss = self._train_step(crops, labels, columns)
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"the loss must be finite, got {loss} at step {self.step}; lower the learning rate, or train "
                        "in fp32 or bf16"
                    )
                meter.add(loss, len(crops) * self.process.world)
                self.step += 1
                self.progress(self.step, total)
                if self.step % per_epoch == 0:
                    row = self._finish_epoch(self._new_row(meter))
                    meter, saved = Meter(), time.monotonic()
                    yield row
                elif time.monotonic() - saved > self.run.save_every:
                    self._save()
                    saved = time.monotonic()

    def _next(self, batches: Iterator[tuple[Tensor, ...]], meter: Meter) -> tuple[Tensor, ...]:
        """Return the next batch. If it cannot be read, or a signal came to any process, save the state and raise."""
        batch = None
        try:
            with meter.waiting_time(), contextlib.suppress(Interrupted), self._interruptible():
                batch = next(batches)
            vote = self.peers.agree(Vote.GO if batch is not None else Vote.STOP)
        except (SeqparError, KeyboardInterrupt):
            if len(self.signals) < 2:  # the second one ends the run at once
                self._save()
            if self.signals:
                raise KeyboardInterrupt from None
            raise
        if batch is None or vote is Vote.STOP:
            self._save()
            raise KeyboardInterrupt
        return batch

    def _loader(self) -> Loader:
        return Loader(
            schedule=self.schedule,
            image_size=self.model.architecture.image_size,
            preprocessing=self.run.label_set.preprocessing,
            augmentation=self.run.recipe.augmentation,
            trimming=self.model.architecture.trimming,
            workers=self.run.workers,
            rank=self.process.rank,
            world=self.process.world,
        )

    def _train_step(self, crops: Tensor, labels: Tensor, columns: Tensor) -> float:
        """Update the weights once. Returns the mean loss per target token."""
        recipe, device = self.optimiser_recipe, self.process.device
        inputs, targets = sequences_from_labels(labels, eos=recipe.eos)
        count = int((targets != PAD).sum())
        share = learning_rate(recipe, self.step, self.schedule.steps_per_epoch) / recipe.learning_rate
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = share * group["full_rate"]
        torch.manual_seed(derived_seed(self.run.seed, self.step, self.process.rank))  # of dropout
        self.taught.zero_grad(set_to_none=True)
        total = 0.0
        parts = torch.arange(len(crops)).chunk(recipe.accumulate)
        for number, part in enumerate(parts):
            images = normalise(crops[part].to(device, non_blocking=True), self.run.label_set.preprocessing)
            last = number == len(parts) - 1
            with self._gradients_kept_here() if not last else contextlib.nullcontext():
                with torch.autocast(device.type, _AUTOCAST.get(self.precision), enabled=self.precision != "fp32"):
                    log_probs, presence = self.forward(images, inputs[part].to(device), columns[part])
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
        """Return a context in which gradients are accumulated but not exchanged between processes."""
        forward = self.forward
        return forward.no_sync() if isinstance(forward, DistributedDataParallel) else contextlib.nullcontext()

    @torch.no_grad()
    def _update_average(self, average: dict[str, Tensor]) -> None:
        # The decay grows with the step, so that the average forgets the poor first weights faster.
        decay = min(self.optimiser_recipe.average, (1 + self.step) / (10 + self.step))
        values = dict(self.model.state_dict())
        floating = [name for name in average if average[name].is_floating_point()]
        torch._foreach_lerp_([average[name] for name in floating], [values[name] for name in floating], 1 - decay)

    def _new_row(self, meter: Meter) -> dict[str, Any]:
        row = {
            "epoch": self.step // self.schedule.steps_per_epoch,
            "learning_rate": learning_rate(self.optimiser_recipe, self.step - 1, self.schedule.steps_per_epoch),
            "loss": meter.loss,
            "images_per_second": meter.images_per_second,
            "waiting": meter.waiting,
        }
        self.history.append(row)
        return row

    def _is_last(self, row: dict[str, Any]) -> bool:
        return bool(row["epoch"] == self.optimiser_recipe.epochs)

    def _due(self, row: dict[str, Any]) -> bool:
        """Return whether the validation of this epoch is still to do."""
        due = self._is_last(row) or row["epoch"] % self.run.validate_every == 0
        return due and self.run.validation is not None and "f1" not in row

    def _finish_epoch(self, row: dict[str, Any]) -> dict[str, Any]:
        """Save the state, validate the last epoch of the history if it is due, and write checkpoints and log."""
        self._save()  # first: the validation may take long, fail, or be stopped
        stopped = False
        if self._due(row) or self._is_last(row):
            stopped = self._write_checkpoints(row) if self.process.rank == 0 else self._await_checkpoints()
        if self.process.rank == 0:
            write_log(self.run.out, self.history)
            if "f1" in row:
                self._save()
        if stopped:
            raise KeyboardInterrupt
        return row

    def _write_checkpoints(self, row: dict[str, Any]) -> bool:
        """Validate, and write the checkpoints of this epoch. Returns whether a signal to any process came first."""
        model = self._averaged_model()
        try:
            if self._due(row) and self.run.validation is not None:
                with self._interruptible():
                    metrics = validate(model, self.run.label_set, self.run.validation, progress=self._check_in)
                row |= {name: getattr(metrics, name) for name in _SCORES}
                for score, file in (("ma", BEST_MA), ("f1", BEST_F1)):
                    if row[score] > max((earlier.get(score, -1.0) for earlier in self.history[:-1]), default=-1.0):
                        self._save_checkpoint(file, model, row)
            if self._is_last(row):
                self._save_checkpoint(LAST, model, row)
        except Stopped:  # by all processes
            return True
        except Interrupted:
            self.peers.agree(Vote.STOP)
            return True
        return self.peers.agree(Vote.DONE) is Vote.STOP

    def _await_checkpoints(self) -> bool:
        """Wait until the first process has written the checkpoints. Returns whether a signal to any process came."""
        vote = Vote.GO
        while vote is Vote.GO:
            vote = self.peers.agree(Vote.STOP if self.signals else Vote.GO)
        return vote is Vote.STOP

    def _check_in(self, _done: int, _total: int) -> None:
        """Keep the other processes waiting for the validation, or raise if one of them has to stop."""
        if self.signals:
            raise Interrupted
        if self.peers.agree(Vote.GO) is Vote.STOP:
            raise Stopped

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
            raise not_written(self.run.out / name, error) from None

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
        check_folder(self.run.out, (BEST_MA, BEST_F1, LAST))
        if self.process.rank == 0:
            weights = sum(4 * weight.numel() for weight in self.taught.parameters())
            size = weights * (1 if self.average is None else 2) + moments_size(self.optimisers)
            kept = (BEST_MA, BEST_F1, LAST) if self.run.validation is not None else (LAST,)
            check_room(self.run.out, size, weights, kept)
        state = load_state(self.run.out, self.run.identity())
        if state is None:
            return
        values = state.tensors
        if missing := sorted({*self.taught.state_dict()} - {*values}):
            raise TrainingError(
                f"the state in {self.run.out} must contain {missing[0]}, got a state of another version of this "
                "package; resume with that version, or start in another folder"
            )
        self.taught.load_state_dict({name: values[name] for name in self.taught.state_dict()})
        if self.average is not None:
            self.average = {name: values[f"average.{name}"].to(self.process.device) for name in self.average}
        restore_optimisers(self.optimisers, self.names, values)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.step, self.history = state.step, state.history
        if self.history and self.step % self.schedule.steps_per_epoch == 0:
            row = self.history[-1]
            self.unfinished = self._due(row) or (self._is_last(row) and not (self.run.out / LAST).is_file())
        if self.process.rank == 0:
            _log.info("resuming the run in %s at step %d", self.run.out, self.step)


def _available_precision(precision: Precision, process: Process) -> Precision:
    """Replace bf16 by fp32 on processors without bf16, which emulate it at half the speed of fp32."""
    if precision != "bf16" or process.device.type != "cpu" or has_bf16():
        return precision
    if process.rank == 0:
        _log.warning("this processor has no bf16 instructions; training in fp32 instead of bf16")
    return "fp32"
