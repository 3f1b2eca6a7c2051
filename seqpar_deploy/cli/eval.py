"""`seqpar eval`: the published metrics of a checkpoint, or of a bundle on any backend."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.sidecar import load_calibration
from seqpar_deploy.calibration.thresholds import read_thresholds
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import USAGE_ERROR, emit_result, print_error, stage
from seqpar_deploy.datasets import Dataset, check_exists, check_images, load_dataset
from seqpar_deploy.decoding import Beam, Generation, Greedy, Strategy
from seqpar_deploy.errors import BackendUnavailableError, CheckpointError, DatasetError, LabelSetError, SeqparError
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate, redefined_as_trimmed
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics
from seqpar_deploy.evaluation.picture import check_available, draw_metrics
from seqpar_deploy.evaluation.probability_picture import draw_reliability
from seqpar_deploy.evaluation.score_table import format_attributes, format_overall, paper_scores
from seqpar_deploy.evaluation.sequences import describe_difference, differing, read_sequences, sequences_to_jsonl
from seqpar_deploy.evaluation.states import StateScores, score_states
from seqpar_deploy.evaluation.trimming_cost import trimming_cost
from seqpar_deploy.files import check_writable, write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.modeling.load import export_extra, load_network
from seqpar_deploy.vocab import LabelSet

_CHECKPOINT_ROWS = 64  # of a decoder batch in PyTorch


_Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        help="Dataset: its folder as published, or a CSV or JSON Lines file.",
        metavar="PATH",
    ),
]
_Backend = Annotated[
    options.ModelBackendName,
    typer.Option(
        help="Backend that runs the model: torch or torch-cuda for a checkpoint, another for a bundle. auto takes "
        "the first that can open the model."
    ),
]
_BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Crops per inference.",
        show_default=f"the largest batch of a bundle, {_CHECKPOINT_ROWS} for a checkpoint",
        min=1,
    ),
]
_Limit = Annotated[
    int | None, typer.Option(help="Evaluate only the first N people of the split.", show_default="all", min=1)
]
_Picture = Annotated[
    Path | None, typer.Option(help="Also write a chart of the scores per attribute to this PNG.", metavar="FILE")
]
_Reliability = Annotated[
    Path | None,
    typer.Option(help="Also write a reliability diagram and a risk-coverage curve to this PNG.", metavar="FILE"),
]
_Predictions = Annotated[
    Path | None,
    typer.Option(
        help="Also write the generated sequence per person to this JSON Lines file, for --against.", metavar="FILE"
    ),
]
_Against = Annotated[
    Path | None,
    typer.Option(help="Count the sequences that differ from this --predictions file of another run.", metavar="FILE"),
]
_Trim = Annotated[
    bool,
    typer.Option(
        "--trim",
        help="Evaluate the model redefined as trimmed, and compare it with the model as it is.",
    ),
]


def evaluate(
    model: Annotated[Path, typer.Argument(help="Checkpoint (.pth or .safetensors) or bundle folder.", metavar="MODEL")],
    data: _Data,
    split: options.Split = None,
    backend: _Backend = "auto",
    beam: options.Beam = 1,
    batch_size: _BatchSize = None,
    threads: options.Threads = None,
    limit: _Limit = None,
    label_set: options.LabelSet = None,
    sentences: options.Sentences = False,
    encoder: options.Encoder = None,
    decoder_heads: options.DecoderHeads = None,
    weights: options.Weights = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
    thresholds: options.Thresholds = None,
    picture: _Picture = None,
    reliability: _Reliability = None,
    predictions: _Predictions = None,
    against: _Against = None,
    trim: _Trim = False,
) -> None:
    """Evaluate a checkpoint or a bundle on a labelled dataset.

    Print mA, accuracy, precision, recall and F1 as the paper defines them, and the scores per attribute. For the test
    split of a dataset in the paper, also print the paper's scores.
    Then print the scores of probabilities, calibrated if the bundle has a calibration, and of states at thresholds.

    With --trim, a model that was made for all padding reads trimmed crops. The command also evaluates it as it is, and
    prints what trimming costs: both scores with a paired interval over people or groups, and the changed sequences.

    If an image cannot be read, the command reports it, evaluates the others, and exits with code 2: the scores are not
    comparable.

    Examples:
      seqpar eval bundles/peta --data PETA
      seqpar eval f1_best.pth --label-set peta --data PETA --output scores.json
      seqpar eval f1_best.pth --label-set peta --data PETA --trim
    """
    check_writable(output, picture, reliability, predictions)
    strategy = Greedy() if beam == 1 else Beam(width=beam)
    if picture or reliability:
        check_available()  # fails now if matplotlib is missing, not after an hour of evaluation
    dataset = _load_data(model, data, split, limit)  # before the model, which may take a minute
    with stage("loading"):
        open_model = _open_bundle if model.is_dir() else _open_checkpoint
        loaded = open_model(model, backend, threads, label_set, sentences, encoder, decoder_heads, weights, trim)
    calibration = load_calibration(Bundle.open(model, verify=False)) if model.is_dir() else None
    limits = read_thresholds(thresholds, loaded.label_set) if thresholds else None
    dataset = dataset or _load(loaded.label_set, data, split, limit)
    earlier = read_sequences(against, dataset) if against else None

    unreadable: dict[int, SeqparError] = {}
    generations, seconds = _generate(loaded, dataset, strategy, batch_size, unreadable)
    untrimmed = _generate(loaded.with_all_padding(), dataset, strategy, batch_size, {})[0] if trim else None
    loaded.backend.close()
    if unreadable:
        dataset, earlier = _without(dataset, earlier, unreadable)
    paper = paper_scores(dataset, published_files=data.is_dir() and limit is None and not unreadable)

    metrics = compute_metrics(attributes_of(generations, len(loaded.label_set)), dataset.labels)
    decided = score_states(generations, dataset, calibration, limits)
    different = None if earlier is None else differing(dataset, generations, earlier)
    values = _result(loaded, dataset, metrics, beam, seconds)
    values["probabilities"] = decided.to_dict(loaded.label_set)
    values["unreadable"] = [str(error) for error in unreadable.values()]
    values["paper_per_cent"] = dict(paper) if paper else None
    values["against"] = None if different is None else {"file": str(against), "different": len(different)}
    text = f"{_format_scores(loaded, dataset, metrics, paper, beam, seconds)}\n\n{decided.text(loaded.label_set)}"
    if cost := None if untrimmed is None else trimming_cost(dataset, untrimmed, generations):
        values["trimming"] = cost.to_dict()
        text += f"\n\n{cost.text()}"
    text += _notes(different, len(dataset), against, unreadable)
    if predictions:
        write_whole(predictions, sequences_to_jsonl(dataset, generations).encode("utf-8", "backslashreplace"))
    _draw(loaded, dataset, metrics, decided, picture, reliability)
    emit_result(values, text, as_json=as_json, output=output)
    if unreadable:
        raise typer.Exit(USAGE_ERROR)


def _generate(
    model: Model,
    dataset: Dataset,
    strategy: Strategy,
    batch_size: int | None,
    unreadable: dict[int, SeqparError],
) -> tuple[list[Generation], float]:
    """Return the sequences and the seconds that they took. `unreadable` receives errors of pictures."""
    start = time.perf_counter()
    with stage(f"evaluating on {model.backend.name}") as progress:
        generations = generate(
            model, dataset, strategy, batch_size=batch_size, progress=progress, unreadable=unreadable
        )
    return generations, time.perf_counter() - start


def _draw(
    model: Model,
    dataset: Dataset,
    metrics: Metrics,
    decided: StateScores,
    picture: Path | None,
    reliability: Path | None,
) -> None:
    title = f"{model.name} on {dataset.name}, {dataset.split}"
    if picture:
        write_whole(picture, draw_metrics(metrics, model.label_set, title))
    if reliability:
        write_whole(reliability, draw_reliability({decided.kind: decided.metrics}, title))


def _notes(
    different: Sequence[str] | None, people: int, against: Path | None, unreadable: Mapping[int, SeqparError]
) -> str:
    text = "" if different is None else f"\n\n{describe_difference(different, people, str(against))}"
    if unreadable:
        left_out, total = len(unreadable), people + len(unreadable)
        text += f"\n\nleft out, because they cannot be read: {left_out} of {total} people"
    return text


def _load_data(model: Path, data: Path, split: str | None, limit: int | None) -> Dataset | None:
    """Load the dataset of a bundle, whose label set is known without its graphs. Of a checkpoint, check that it exists.

    Raises SeqparError.
    """
    check_exists(data)
    return _load(Bundle.open(model, verify=False).label_set, data, split, limit) if model.is_dir() else None


def _load(label_set: LabelSet, data: Path, split: str | None, limit: int | None) -> Dataset:
    dataset = load_dataset(label_set, data, split or ("test" if data.is_dir() else None))
    if limit is not None:
        dataset = dataset.subset(range(min(limit, len(dataset))))
    check_images(dataset)
    return dataset


def _without(
    dataset: Dataset, earlier: list[tuple[int, ...]] | None, unreadable: Mapping[int, SeqparError]
) -> tuple[Dataset, list[tuple[int, ...]] | None]:
    """Report people that cannot be read, and leave them out. Raises DatasetError if nobody is left."""
    for error in unreadable.values():
        print_error(error)
    kept = [row for row in range(len(dataset)) if row not in unreadable]
    if not kept:
        raise DatasetError(f"{dataset.name} must have one or more pictures that can be read, got none")
    return dataset.subset(kept), earlier and [earlier[row] for row in kept]


def _format_scores(
    model: Model, dataset: Dataset, metrics: Metrics, paper: Mapping[str, float] | None, beam: int, seconds: float
) -> str:
    device = f"{model.backend.name} ({model.backend.device})"
    return (
        f"{model.name} ({model.kind}, {model.precision}) on {device}, {'greedy' if beam == 1 else f'beam {beam}'}\n"
        f"{dataset.name} {dataset.split}: {len(dataset)} people, {len(dataset) / seconds:.1f} per second\n\n"
        f"{format_attributes(metrics, model.label_set)}\n\n{format_overall(metrics, paper)}"
    )


def _open_bundle(
    path: Path,
    backend: options.ModelBackendName,
    threads: int | None,
    label_set: str | None,
    sentences: bool,
    encoder: str | None,
    decoder_heads: int | None,
    weights: str | None,
    trim: bool,
) -> Model:
    if backend == "torch" or backend == "torch-cuda":
        raise BackendUnavailableError(
            f"--backend must be one that runs bundles, got {backend}, which runs checkpoints; omit --backend"
        )
    if sentences or encoder or decoder_heads or weights:
        raise BackendUnavailableError(
            "--sentences, --encoder, --decoder-heads and --weights need a checkpoint, got a bundle; omit them"
        )
    if label_set is not None:
        raise LabelSetError(
            f"--label-set needs a checkpoint, got bundle {path.name}, which has its own; omit --label-set"
        )
    bundle = Bundle.open(path)
    if trim and not bundle.reads_any_width:
        raise BackendUnavailableError(
            f"--trim needs a bundle whose encoder reads crops of any width, got {path.name}, which an earlier version "
            "made; export it again, or evaluate the checkpoint"
        )
    opened = Model.of_bundle(bundle, open_backend(bundle, backend, threads=threads))
    return redefined_as_trimmed(opened, grid=bundle.dimensions.grid) if trim else opened


def _open_checkpoint(
    path: Path,
    backend: str,
    threads: int | None,
    label_set: str | None,
    sentences: bool,
    encoder: str | None,
    decoder_heads: int | None,
    weights: str | None,
    trim: bool,
) -> Model:
    if not path.exists():
        raise CheckpointError(
            f"model must be a .pth or .safetensors file or a bundle folder, got {path}, which is missing"
        )
    if backend not in ("auto", "torch", "torch-cuda"):
        raise BackendUnavailableError(
            f"--backend of a checkpoint must be auto, torch or torch-cuda, got {backend}; only bundles run on it"
        )
    with export_extra():
        import torch

        from seqpar_deploy.modeling.eager import CachedEagerBackend

    if backend == "torch-cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "--backend torch-cuda needs an NVIDIA GPU, and PyTorch finds none; use --backend torch"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_network(
        path,
        label_set=label_set,
        sentences=sentences,
        encoder=encoder,
        decoder_heads=decoder_heads,
        weights=weights,
        device="cuda" if backend != "torch" and torch.cuda.is_available() else "cpu",
    )
    opened = Model(
        name=path.name,
        kind="checkpoint",
        precision="fp32",
        sha256=loaded.sha256,
        label_set=loaded.label_set,
        image_size=loaded.network.architecture.image_size,
        max_rows=_CHECKPOINT_ROWS,
        backend=CachedEagerBackend(loaded.network, loaded.token_table, loaded.label_set.preprocessing),
        trimming=loaded.network.architecture.trimming,
    )
    return redefined_as_trimmed(opened, grid=loaded.network.architecture.grid) if trim else opened


def _without_unknown(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attribute's scores, with None for those that have no labels to be computed from."""
    missing = {"recall_yes"} if scores["positives"] == 0 else set()
    missing |= {"recall_no"} if scores["positives"] == scores["known"] else set()
    missing |= {name for name, value in scores.items() if isinstance(value, float)} if scores["known"] == 0 else set()
    return {name: None if name in missing else value for name, value in scores.items()}


def _result(model: Model, dataset: Dataset, metrics: Metrics, beam: int, seconds: float) -> dict[str, Any]:
    scores = metrics.to_dict()
    names = [attribute.name for attribute in model.label_set.attributes]
    scores["attributes"] = dict(zip(names, map(_without_unknown, scores["attributes"]), strict=True))
    return {
        "what": "published scores, from 0 to 1; seconds include reading the pictures",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "model": {
            "name": model.name,
            "kind": model.kind,
            "precision": model.precision,
            "sha256": model.sha256,
            "label_set": model.label_set.name,
        },
        "backend": {"name": model.backend.name, "device": model.backend.device},
        "beam": beam,
        "data": {
            "name": dataset.name,
            "split": dataset.split,
            "people": len(dataset),
            "known_share": float(np.mean(dataset.labels >= 0)),
        },
        "metrics": scores,
        "trimming": None,
        "seconds": seconds,
        "images_per_second": len(dataset) / seconds,
        "machine": describe_machine(),
    }
