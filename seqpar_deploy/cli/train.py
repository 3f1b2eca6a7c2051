"""`seqpar train`: data -> checkpoint."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqpar_deploy.cli.console import INTERRUPTED
from seqpar_deploy.errors import BackendUnavailableError, DatasetError
from seqpar_deploy.resources import label_set_names, load_label_set, training_recipe_names
from seqpar_deploy.training.recipe import TrainingRecipe, load_training_recipe
from seqpar_deploy.vocab import LabelSet

if TYPE_CHECKING:
    from seqpar_deploy.modeling.sequencepar import SequencePAR
    from seqpar_deploy.training.loader import Source
    from seqpar_deploy.training.run import Run


def train(
    data: Annotated[
        list[str],
        typer.Option(
            help="A data set's folder, or a CSV or JSON Lines file; PATH@SPLIT for another split than trainval "
            "(a table: than everyone), PATH=SHARE where several are mixed. May be given again."
        ),
    ],
    label_set: Annotated[
        str, typer.Option(help=f"What is labelled: {', '.join(label_set_names())}, or a TOML file of your own.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder; a run that lies there is gone on with.")],
    validation: Annotated[
        str | None, typer.Option(help="What is scored after each epoch, as --data; of a folder test unless given.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help=f"{', '.join(training_recipe_names())}, or a TOML file of your own.")
    ] = "published",
    # Not --start: torchrun would take it for its own --start-method.
    start: Annotated[Path | None, typer.Option("--from", help="A SequencePAR checkpoint to start from.")] = None,
    eos: Annotated[bool, typer.Option(help="End the targets with <eos>; the release does not.")] = True,
    sentences: Annotated[bool, typer.Option("--sentences", help="Give the text tower full sentences.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Other than the recipe's.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, augmentation and dropout.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes that read pictures.", min=0)] = 1,
    validate_every: Annotated[int, typer.Option(help="Epochs between validations.", min=1)] = 1,
    save_every: Annotated[float, typer.Option(help="Seconds between saved states, beside each epoch's.")] = 300.0,
) -> None:
    """Train SequencePAR. Writes best-f1, best-ma and last .safetensors, recipe.json, log.csv and learning curves.

    Several GPUs: torchrun --nproc-per-node N -m seqpar_deploy.cli.main train ...
    """
    labels = load_label_set(label_set, sentences=sentences)
    chosen = _chosen_recipe(recipe, eos=eos, epochs=epochs)
    try:
        from seqpar_deploy.modeling.checkpoint import load_checkpoint
        from seqpar_deploy.training.run import Run
        from seqpar_deploy.training.start import model_from_checkpoint, new_model
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None

    checkpoint = load_checkpoint(start) if start else None
    run = Run(
        recipe=chosen,
        label_set=labels,
        sources=tuple(_source(text, labels, "trainval") for text in data),
        validation=_source(validation, labels, "test").dataset if validation else None,
        out=out,
        start=checkpoint.sha256 if checkpoint else None,
        seed=seed,
        workers=workers,
        validate_every=validate_every,
        save_every=save_every,
    )
    _run(run, model_from_checkpoint(checkpoint, labels) if checkpoint else new_model(chosen.model, labels, seed=seed))


def _chosen_recipe(name: str, *, eos: bool, epochs: int | None) -> TrainingRecipe:
    recipe = load_training_recipe(name)
    optimiser = recipe.optimiser
    optimiser = dataclasses.replace(optimiser, eos=eos and optimiser.eos, epochs=epochs or optimiser.epochs)
    return dataclasses.replace(recipe, optimiser=optimiser)


def _not_installed(error: ModuleNotFoundError) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"training needs {error.name}, which is not installed; pip install 'seqpar-deploy[train]'"
    )


def _run(run: Run, model: SequencePAR) -> None:
    """Train, and print a line per epoch."""
    try:
        from seqpar_deploy.training.loop import train as run_training
        from seqpar_deploy.training.run import joined_processes
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None

    with joined_processes() as process:
        first = process.rank == 0
        row = None
        try:
            for row in run_training(run, model, process, progress=_progress(first)):
                if first:
                    print(_line(row), flush=True)
        except KeyboardInterrupt:
            if first:
                print("interrupted; the same command resumes the run", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    if first and row is None:
        print(f"{run.out} is a finished run; choose another --out to train again", file=sys.stderr)


def _source(text: str, labels: LabelSet, split: str) -> Source:
    """`PATH[@SPLIT][=SHARE]`."""
    from seqpar_deploy.datasets import load_dataset
    from seqpar_deploy.training.loader import Source

    path, _, share = text.partition("=")
    path, _, named = path.partition("@")
    try:
        weight = float(share) if share else 1.0
    except ValueError:
        weight = -1.0
    if weight <= 0:
        raise DatasetError(f"the share in {text!r} must be a number above 0, got {share!r}")
    chosen = named or (split if Path(path).is_dir() else None)  # a table may be taken whole
    return Source(dataset=load_dataset(labels, path, chosen), share=weight)


def _line(row: dict[str, Any]) -> str:
    scores = f"  mA {row['ma']:.4f}  F1 {row['f1']:.4f}" if "f1" in row else ""
    return (
        f"epoch {row['epoch']:3}  loss {row['loss']:.4f}{scores}  {row['images_per_second']:.0f} pictures/s, "
        f"{row['waiting']:.0%} of the time waiting for them"
    )


def _progress(shown: bool) -> Callable[[int, int], None]:
    """Step, speed and the time left, on standard error; a line every second on a terminal, every minute elsewhere."""
    live = sys.stderr.isatty()
    began = time.monotonic()
    first_step: int | None = None
    last = began

    def update(step: int, total: int) -> None:
        nonlocal first_step, last
        now = time.monotonic()
        if first_step is None:
            first_step = step - 1
        if not shown or now - last < (1 if live else 60):
            return
        last = now
        left = (total - step) * (now - began) / (step - first_step)
        text = f"step {step}/{total}, {left / 60:.0f} min left"
        print(f"\r\033[K{text}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)

    return update
