"""`seqpar eval`: the published scores of a checkpoint, or of a bundle on any backend."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer

from seqpar_deploy.backends import BackendName, open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli.console import stage
from seqpar_deploy.datasets import Dataset, check_images, load_dataset
from seqpar_deploy.decoding import Beam, Greedy
from seqpar_deploy.errors import BackendUnavailableError, CheckpointError, LabelSetError
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics
from seqpar_deploy.evaluation.picture import check_available, draw_metrics
from seqpar_deploy.evaluation.score_table import format_attributes, format_overall, paper_scores
from seqpar_deploy.evaluation.sequences import describe_difference, differing, read_sequences, sequences_to_jsonl
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.modeling.load import export_extra, load_network
from seqpar_deploy.resources import label_set_names

_TORCH_BACKENDS = ("auto", "torch", "torch-cuda")
_CHECKPOINT_ROWS = 64  # of a decoder batch in PyTorch


def evaluate(
    model: Annotated[Path, typer.Argument(help="A checkpoint (.pth, .safetensors) or a bundle folder.")],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="The data set's folder as published, or a CSV or JSON Lines file.")
    ],
    split: Annotated[
        str | None, typer.Option(help="Which part of it; of a folder test by default, of a file everyone.")
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help=f"For a bundle {', '.join(get_args(BackendName))}; for a checkpoint auto, torch or torch-cuda."
        ),
    ] = "auto",
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 1,
    batch_size: Annotated[int | None, typer.Option(help="Crops an inference.", min=1)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads an inference.", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many people, from the first on.", min=1)] = None,
    label_set: Annotated[
        str | None,
        typer.Option(help=f"What a checkpoint was trained on: {', '.join(label_set_names())}, or a TOML file."),
    ] = None,
    sentences: Annotated[
        bool, typer.Option("--sentences", help="The checkpoint was trained on the label set's full sentences.")
    ] = False,
    encoder: Annotated[str | None, typer.Option(help="As for seqpar-export.")] = None,
    decoder_heads: Annotated[int | None, typer.Option(help="As for seqpar-export.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write scores, model, data and machine here.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the scores of each attribute into this PNG.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write each person's sequence here, as JSON Lines, for --against.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="The --predictions of another run: say how many sequences differ.")
    ] = None,
) -> None:
    """Print mA, accuracy, precision, recall and F1 as published, and the scores of each attribute.

    Beside them stand the paper's, where the data is the test split of a set the paper reports. A picture that cannot be
    read ends the run: a score over the others would be another test's.
    """
    strategy = Greedy() if beam == 1 else Beam(width=beam)
    if picture:
        check_available()  # rather now than after an hour
    with stage("loading"):
        if model.is_dir():
            loaded = _open_bundle(model, backend, threads, label_set)
        else:
            loaded = _open_checkpoint(model, backend, threads, label_set, sentences, encoder, decoder_heads)
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
    _print_scores(loaded, dataset, metrics, paper, beam, seconds)
    if different is not None:
        print(f"\n{describe_difference(different, len(dataset), str(against))}")
    if predictions:
        write_whole(predictions, sequences_to_jsonl(dataset, generations).encode())
    if json_file:
        values = _result(loaded, dataset, metrics, beam, seconds)
        values["paper_per_cent"] = dict(paper) if paper else None
        values["against"] = None if different is None else {"file": str(against), "different": len(different)}
        write_whole(json_file, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())
    if picture:
        title = f"{loaded.name} on {dataset.name}, {dataset.split}"
        write_whole(picture, draw_metrics(metrics, loaded.label_set, title))


def _print_scores(
    model: Model, dataset: Dataset, metrics: Metrics, paper: Mapping[str, float] | None, beam: int, seconds: float
) -> None:
    where = f"{model.backend.name} ({model.backend.device})"
    print(f"{model.name} ({model.kind}, {model.precision}) on {where}, {'greedy' if beam == 1 else f'beam {beam}'}")
    print(f"{dataset.name} {dataset.split}: {len(dataset)} people, {len(dataset) / seconds:.1f} a second\n")
    print(f"{format_attributes(metrics, model.label_set)}\n\n{format_overall(metrics, paper)}")


def _open_bundle(path: Path, backend: str, threads: int | None, label_set: str | None) -> Model:
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
        backend=open_backend(bundle, backend, threads=threads),  # type: ignore[arg-type]
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
    if backend not in _TORCH_BACKENDS:
        raise BackendUnavailableError(
            f"a checkpoint runs on {' or '.join(_TORCH_BACKENDS[1:])}, not on {backend!r}; "
            "make a bundle of it with seqpar-export"
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


def _result(model: Model, dataset: Dataset, metrics: Metrics, beam: int, seconds: float) -> dict[str, Any]:
    scores = metrics.to_dict()
    names = [attribute.name for attribute in model.label_set.attributes]
    scores["attributes"] = dict(zip(names, scores["attributes"], strict=True))
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
