"""`seqpar eval`: the published scores of a checkpoint, or of a bundle on any backend."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result, stage
from seqpar_deploy.datasets import Dataset, check_images, load_dataset
from seqpar_deploy.decoding import Beam, Greedy
from seqpar_deploy.errors import BackendUnavailableError, CheckpointError, LabelSetError
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics
from seqpar_deploy.evaluation.picture import check_available, draw_metrics
from seqpar_deploy.evaluation.score_table import format_attributes, format_overall, paper_scores
from seqpar_deploy.evaluation.sequences import describe_difference, differing, read_sequences, sequences_to_jsonl
from seqpar_deploy.files import check_writable, write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.modeling.load import export_extra, load_network

_CHECKPOINT_ROWS = 64  # of a decoder batch in PyTorch


def evaluate(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint (.pth or .safetensors) or bundle folder.", show_default=False)
    ],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Dataset: its folder as published, or a CSV or JSON Lines file.")
    ],
    split: options.Split = None,
    backend: Annotated[
        options.ModelBackendName,
        typer.Option(help="Backend. torch and torch-cuda run checkpoints, the others run bundles."),
    ] = "auto",
    beam: options.Beam = 1,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    limit: Annotated[
        int | None, typer.Option(help="Evaluate only this many people, the first ones. Default: all.", min=1)
    ] = None,
    label_set: options.LabelSet = None,
    sentences: options.Sentences = False,
    encoder: options.Encoder = None,
    decoder_heads: options.DecoderHeads = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw the scores of each attribute to this PNG.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Also write each person's sequence to this JSON Lines file, for --against.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="--predictions file of another run; count the sequences that differ.")
    ] = None,
) -> None:
    """Evaluate a checkpoint or a bundle on a labelled dataset.

    Prints mA, accuracy, precision, recall and F1 as the paper defines them, and the scores of each attribute. On the
    test split of a dataset the paper reports, the paper's scores are printed beside them. An image that cannot be read
    ends the run, because scores over the other images would not be comparable.

    Examples:
      seqpar eval bundles/peta --data PETA
      seqpar eval f1_best.pth --label-set peta --data PETA --output scores.json
    """
    check_writable(output, picture, predictions)
    strategy = Greedy() if beam == 1 else Beam(width=beam)
    if picture:
        check_available()  # rather now than after an hour
    with stage("loading"):
        open_model = _open_bundle if model.is_dir() else _open_checkpoint
        loaded = open_model(model, backend, threads, label_set, sentences, encoder, decoder_heads)
    dataset = load_dataset(loaded.label_set, data, split or ("test" if data.is_dir() else None))
    paper = paper_scores(dataset, published_files=data.is_dir() and limit is None)
    if limit is not None:
        dataset = dataset.subset(range(min(limit, len(dataset))))
    check_images(dataset)
    earlier = read_sequences(against, dataset) if against else None

    start = time.perf_counter()
    with stage(f"evaluating on {loaded.backend.name}") as progress:
        generations = generate(loaded, dataset, strategy, batch_size=batch_size, progress=progress)
    seconds = time.perf_counter() - start
    loaded.backend.close()

    metrics = compute_metrics(attributes_of(generations, len(loaded.label_set)), dataset.labels)
    different = None if earlier is None else differing(dataset, generations, earlier)
    values = _result(loaded, dataset, metrics, beam, seconds)
    values["paper_per_cent"] = dict(paper) if paper else None
    values["against"] = None if different is None else {"file": str(against), "different": len(different)}
    text = _format_scores(loaded, dataset, metrics, paper, beam, seconds)
    if different is not None:
        text += f"\n\n{describe_difference(different, len(dataset), str(against))}"
    if predictions:
        write_whole(predictions, sequences_to_jsonl(dataset, generations).encode())
    if picture:
        title = f"{loaded.name} on {dataset.name}, {dataset.split}"
        write_whole(picture, draw_metrics(metrics, loaded.label_set, title))
    emit_result(values, text, as_json=as_json, output=output)


def _format_scores(
    model: Model, dataset: Dataset, metrics: Metrics, paper: Mapping[str, float] | None, beam: int, seconds: float
) -> str:
    where = f"{model.backend.name} ({model.backend.device})"
    return (
        f"{model.name} ({model.kind}, {model.precision}) on {where}, {'greedy' if beam == 1 else f'beam {beam}'}\n"
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
) -> Model:
    if backend == "torch" or backend == "torch-cuda":
        raise BackendUnavailableError(f"--backend of a bundle must not be {backend}, which runs checkpoints; omit it")
    if sentences or encoder or decoder_heads:
        raise BackendUnavailableError("--sentences, --encoder and --decoder-heads are of a checkpoint; omit them")
    if label_set is not None:
        raise LabelSetError(f"bundle {path.name} says itself what it was trained on; leave out --label-set")
    bundle = Bundle.open(path)
    return Model(
        name=path.resolve().name,
        kind="bundle",
        precision=bundle.precision,
        sha256=bundle.digest,
        label_set=bundle.label_set,
        image_size=bundle.dimensions.image_size,
        max_rows=bundle.max_batch,
        backend=open_backend(bundle, backend, threads=threads),
    )


def _open_checkpoint(
    path: Path,
    backend: str,
    threads: int | None,
    label_set: str | None,
    sentences: bool,
    encoder: str | None,
    decoder_heads: int | None,
) -> Model:
    if not path.exists():
        raise CheckpointError(f"no model at {path}; wanted a .pth or .safetensors file or a bundle folder")
    if backend not in ("auto", "torch", "torch-cuda"):
        raise BackendUnavailableError(
            f"--backend of a checkpoint must be auto, torch or torch-cuda, got {backend}; only bundles run on it"
        )
    with export_extra():
        import torch

        from seqpar_deploy.modeling.eager import CachedEagerBackend

    if backend == "torch-cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("torch-cuda finds no NVIDIA GPU; use --backend torch")
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_network(
        path,
        label_set=label_set,
        sentences=sentences,
        encoder=encoder,
        decoder_heads=decoder_heads,
        device="cuda" if backend != "torch" and torch.cuda.is_available() else "cpu",
    )
    return Model(
        name=path.name,
        kind="checkpoint",
        precision="fp32",
        sha256=loaded.sha256,
        label_set=loaded.label_set,
        image_size=loaded.network.architecture.image_size,
        max_rows=_CHECKPOINT_ROWS,
        backend=CachedEagerBackend(loaded.network, loaded.token_table, loaded.label_set.preprocessing),
    )


def _without_unknown(scores: Mapping[str, Any]) -> dict[str, Any]:
    """An attribute's scores, None in place of those that nobody's label gives."""
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
        "seconds": seconds,
        "images_per_second": len(dataset) / seconds,
        "machine": describe_machine(),
    }
