"""`seqpar train`: train SequencePAR on datasets and write checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import INTERRUPTED, print_line, stage
from seqpar_deploy.errors import BackendUnavailableError, DatasetError, TrainingError
from seqpar_deploy.files import check_writable, finite
from seqpar_deploy.progress import silent
from seqpar_deploy.resources import label_set_names, load_label_set, training_recipe_names
from seqpar_deploy.training.readers import check_workers
from seqpar_deploy.training.recipe import TrainingRecipe, load_training_recipe
from seqpar_deploy.vocab import LabelSet

if TYPE_CHECKING:
    from seqpar_deploy.modeling.sequencepar import SequencePAR
    from seqpar_deploy.training.loader import Source
    from seqpar_deploy.training.run import Run

_log = logging.getLogger(__name__)


_Data = Annotated[
    list[str],
    typer.Option(
        help="Dataset: its folder as published, or a CSV or JSON Lines file. Repeatable. PATH@SPLIT selects a "
        "split, by default trainval for a folder and all rows for a file. PATH=SHARE sets the share of a mix.",
        metavar="PATH",
    ),
]
_LabelSet = Annotated[
    str, typer.Option(help=f"Label set: {', '.join(label_set_names())}, or a TOML file.", metavar="NAME")
]
_Out = Annotated[
    Path, typer.Option("--out", "-o", help="Output folder. An interrupted run in it is resumed.", metavar="FOLDER")
]
_Validation = Annotated[
    str | None,
    typer.Option(
        help="Dataset to evaluate after each epoch, written as for --data. The default split of a folder is test.",
        metavar="PATH",
        show_default="no validation",
    ),
]
_Recipe = Annotated[
    str,
    typer.Option(help=f"Training recipe: {', '.join(training_recipe_names())}, or a TOML file.", metavar="NAME"),
]
_Start = Annotated[
    Path | None,
    typer.Option(
        "--from", help="SequencePAR checkpoint to start from.", metavar="FILE", show_default="the recipe's weights"
    ),
]
_Sentences = Annotated[
    bool,
    typer.Option(
        "--sentences",
        help="Use the label set's sentences as text prompts.",
        show_default="its phrases, which are shorter",
    ),
]
_Epochs = Annotated[int | None, typer.Option(help="Number of epochs.", show_default="as in the recipe", min=1)]
_Workers = Annotated[int, typer.Option(help="Processes that read images. 0 reads in the training process.", min=0)]
_ValidateEvery = Annotated[
    int | None,
    typer.Option(
        help="With --validation: epochs per validation. The last epoch is always validated.",
        show_default="1",
        min=1,
    ),
]
_SaveEvery = Annotated[
    float,
    typer.Option(
        help="Seconds between saved states. A state is also saved after each epoch.", metavar="SECONDS", min=0
    ),
]
_Weights = Annotated[
    str | None,
    typer.Option(
        help="Weights to start from if the --from checkpoint holds several sets, for example model_ema.",
        metavar="NAME",
        show_default="the trained weights",
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON Lines, one object per epoch, instead of text.")]


def train(
    data: _Data,
    label_set: _LabelSet,
    out: _Out,
    validation: _Validation = None,
    recipe: _Recipe = "published",
    # Not --start: torchrun reads it as an abbreviation of its own --start-method.
    start: _Start = None,
    eos: Annotated[bool, typer.Option(help="End the target sequences with <eos>. The published code does not.")] = True,
    sentences: _Sentences = False,
    epochs: _Epochs = None,
    seed: Annotated[int, typer.Option(help="Random seed of weights, order, augmentation and dropout.", min=0)] = 0,
    workers: _Workers = 1,
    validate_every: _ValidateEvery = None,
    save_every: _SaveEvery = 300.0,
    weights: _Weights = None,
    as_json: _AsJson = False,
) -> None:
    """Train SequencePAR on labelled images.

    Write best-f1.safetensors, best-ma.safetensors and last.safetensors, recipe.json, log.csv and learning curves to the
    output folder. After an interruption, the same command resumes the run.

    For several GPUs, start it as: torchrun --nproc-per-node N -m seqpar_deploy train ...

    Examples:
      seqpar train --data PETA --label-set peta --validation PETA --out runs/peta
      seqpar train --data my.csv --label-set my.toml --from peta.pth --out runs/my
    """
    if math.isnan(save_every):
        raise TrainingError("--save-every must be a number of seconds, got nan; for example 300")
    check_writable(out, folder=True)
    check_workers(workers)
    if start is None:
        options.check_needed("--from", {"--weights": weights})
    if validation is None:
        options.check_needed("--validation", {"--validate-every": validate_every})
    labels = load_label_set(label_set, sentences=sentences)
    chosen = _chosen_recipe(recipe, eos=eos, epochs=epochs)
    try:
        from seqpar_deploy.modeling.checkpoint import load_checkpoint
        from seqpar_deploy.training.run import Run
        from seqpar_deploy.training.start import model_from_checkpoint, new_model
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None

    checkpoint = load_checkpoint(start, weights=weights) if start else None
    run = Run(
        recipe=chosen,
        label_set=labels,
        sources=tuple(_source(text, labels, "trainval") for text in data),
        validation=_source(validation, labels, "test").dataset if validation else None,
        out=out,
        start=":".join(filter(None, (checkpoint.sha256, weights))) if checkpoint else None,
        seed=seed,
        workers=workers,
        validate_every=validate_every or 1,
        save_every=save_every,
    )
    model = (
        model_from_checkpoint(checkpoint, labels, chosen.model)
        if checkpoint
        else new_model(chosen.model, labels, seed=seed)
    )
    _run(run, model, as_json=as_json)


def _chosen_recipe(name: str, *, eos: bool, epochs: int | None) -> TrainingRecipe:
    recipe = load_training_recipe(name)
    optimiser = recipe.optimiser
    optimiser = dataclasses.replace(optimiser, eos=eos and optimiser.eos, epochs=epochs or optimiser.epochs)
    return dataclasses.replace(recipe, optimiser=optimiser)


def _not_installed(error: ModuleNotFoundError) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"training needs {error.name}, which is not installed; run pip install 'seqpar-deploy[train]'"
    )


def _run(run: Run, model: SequencePAR, *, as_json: bool) -> None:
    """Train, and print one line per epoch."""
    try:
        from seqpar_deploy.training.loop import train as run_training
        from seqpar_deploy.training.run import joined_processes
    except ModuleNotFoundError as error:
        raise _not_installed(error) from None

    with joined_processes() as process, contextlib.ExitStack() as stack:
        first = process.rank == 0
        row = None
        try:
            progress = stack.enter_context((stage if first else silent)("training"))
            for row in run_training(run, model, process, progress=progress):
                if first:
                    print_line(json.dumps(finite(row)) if as_json else _line(row))
        except KeyboardInterrupt:
            if first:
                _log.warning("interrupted; the same command resumes the run")
            raise typer.Exit(INTERRUPTED) from None
        finally:
            if process.world > 1:  # torchrun sends it to the others once one has ended, and they are ending too
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if first and row is None:
        _log.warning("%s holds a finished run; pass another --out to train again", run.out)


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
        raise DatasetError(
            f"share in --data {text} must be a number above 0, got {share!r}; write PATH=SHARE such as a.csv=0.5"
        )
    chosen = named or (split if Path(path).is_dir() else None)  # a file without splits is used whole
    return Source(dataset=load_dataset(labels, path, chosen), share=weight)


def _line(row: dict[str, Any]) -> str:
    scores = f"  mA {row['ma']:.4f}  F1 {row['f1']:.4f}" if "f1" in row else ""
    return (
        f"epoch {row['epoch']:3}  loss {row['loss']:.4f}{scores}  {row['images_per_second']:.0f} images/s, "
        f"{row['waiting']:.0%} of the time waiting for images"
    )
