"""`seqpar parity`: compare the outputs of a bundle, on this machine and backend, with those of its checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqpar_deploy.backends import Backend, open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result, stage
from seqpar_deploy.datasets import Dataset, check_images, load_dataset
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.evaluation.generate import Model, attributes_of, generate
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.files import check_writable, write_whole
from seqpar_deploy.modeling.load import LoadedNetwork, load_network
from seqpar_deploy.parity.crops import parity_crops
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import Reference, first_of_each_width, reference_from_golden
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import columns_read
from seqpar_deploy.resources import sample_crops

if TYPE_CHECKING:
    from seqpar_deploy.exporting.explain.explain import Explanation

_CROPS = 64  # with --checkpoint
_EXPLAINED = 4  # crops of --explain, which keeps every intermediate tensor of each in memory
_MARKS = {"passed": "ok     ", "failed": "WRONG  ", "skipped": "skipped"}
_SHARES = {"median": "median", "p99": "99 %", "max": "at most"}


_Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Compare with this checkpoint in PyTorch, on more crops. Needs the export extra.",
        metavar="FILE",
        show_default="compare with the golden data in the bundle",
    ),
]
_Crops = Annotated[
    int | None,
    typer.Option(
        help="With --checkpoint: real and rendered crops to compare. Adversarial crops are added.",
        show_default=str(_CROPS),
        min=1,
    ),
]
_Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        help="With --checkpoint: also evaluate checkpoint and bundle on this dataset, as seqpar eval does.",
        metavar="PATH",
    ),
]
_Explained = Annotated[
    bool, typer.Option("--explain", help="With --checkpoint: also find the first graph node whose output differs.")
]
_Html = Annotated[
    Path | None, typer.Option(help="Also write the report, with images, to this HTML page.", metavar="FILE")
]


def parity(
    bundle: options.BundleArgument,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    checkpoint: _Checkpoint = None,
    crops: _Crops = None,
    encoder: options.Encoder = None,
    decoder_heads: options.DecoderHeads = None,
    data: _Data = None,
    split: options.Split = None,
    explained: _Explained = False,
    as_json: options.AsJson = False,
    output: options.Output = None,
    html: _Html = None,
) -> None:
    """Check that a bundle reproduces its checkpoint on this machine.

    Print one line per check. If a check fails, the command prints a one-line diagnosis and exits with code 2.

    Without --checkpoint the reference is the golden data in the bundle, and PyTorch is not needed.

    Examples:
      seqpar parity bundles/peta
      seqpar parity bundles/peta --checkpoint f1_best.pth --html parity.html
    """
    check_writable(output, html)
    if checkpoint is None:
        needing = {"--crops": crops, "--data": data, "--explain": explained}
        options.check_needed("--checkpoint", {**needing, "--encoder": encoder, "--decoder-heads": decoder_heads})
    if data is None:
        options.check_needed("--data", {"--split": split})
    with stage("loading"):
        opened = Bundle.open(bundle)
        tolerances = tolerances_of(opened)
        model = (
            load_network(checkpoint, bundle=opened, encoder=encoder, decoder_heads=decoder_heads)
            if checkpoint
            else None
        )
        dataset = load_dataset(opened.label_set, data, split or ("test" if data.is_dir() else None)) if data else None
        if dataset is not None:
            check_images(dataset)
    reference = _reference(opened, model, crops or _CROPS)
    with closing(open_backend(opened, backend, threads=threads)) as running:
        with stage(f"comparing on {running.name}") as progress:
            report = check_parity(
                running,
                reference,
                tolerances,
                bundle=opened,
                golden=reference_from_golden(opened) if checkpoint else None,
                on_progress=progress,
            )
        if model is not None and dataset is not None:
            from seqpar_deploy.modeling.eager import CachedEagerBackend

            eager = CachedEagerBackend(model.network, model.token_table, opened.preprocessing)
            scores = {"wanted": _score(opened, eager, dataset), "got": _score(opened, running, dataset)}
            report = dataclasses.replace(report, scores={**scores, "people": len(dataset)})
    values = report.to_dict()
    text = format_report(values, opened.path.resolve().name)
    if explained and model is not None:
        wrong = next((divergence.crop for divergence in report.divergences if not divergence.tie), 0)
        explanation = _explain(opened, model, reference, running, wrong)
        values["explanation"] = explanation.to_dict()
        text += f"\n\n{explanation.format()}"
    if html:
        write_whole(html, _page(values, reference, opened).encode())
    emit_result(values, text, as_json=as_json, output=output)
    report.require("do not use it here")


def _explain(
    bundle: Bundle, model: LoadedNetwork, reference: Reference, running: Backend[Any], wrong: int
) -> Explanation:
    from seqpar_deploy.exporting.explain.explain import explain

    on: Any = running.name if running.device == "cpu" else "onnxruntime"
    # Crops of one width, since they run in one batch: that of the first wrong crop.
    rows = reference.batches([wrong, *(crop for crop in range(len(reference.crops)) if crop != wrong)], _EXPLAINED)[0]
    crops, tokens = reference.prepared(rows), reference.tokens[rows]
    return explain(bundle, model.network, model.token_table, crops, tokens, backend=on, progress=stage)


def _reference(bundle: Bundle, checkpoint: LoadedNetwork | None, crops: int) -> Reference:
    if checkpoint is None:
        return reference_from_golden(bundle)
    from seqpar_deploy.exporting.checkpoint_reference import checkpoint_reference

    people = parity_crops(real=crops, rendered=max(0, crops - len(sample_crops())))
    trimming = checkpoint.network.architecture.trimming
    widths = [columns_read(person.image, trimming, bundle.preprocessing) for person in people]
    with stage(f"running the checkpoint on {len(people)} crops") as progress:
        return checkpoint_reference(
            checkpoint.network,
            checkpoint.token_table,
            bundle.label_set,
            people,
            beams=first_of_each_width(widths, tolerances_of(bundle).beams),
            on_progress=progress,
        )


def _score(bundle: Bundle, backend: Backend[Any], dataset: Dataset) -> dict[str, float]:
    model = Model.of_bundle(bundle, backend)
    with stage(f"scoring {len(dataset)} people on {backend.name}") as progress:
        generations = generate(model, dataset, Greedy(), progress=progress)
    metrics = compute_metrics(attributes_of(generations, len(bundle.label_set)), dataset.labels)
    return {"mA": metrics.ma, "F1": metrics.f1}


def format_report(report: Mapping[str, Any], name: str) -> str:
    """Return a parity report as a table for the terminal."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in report["kinds"].items() if number)
    lines = [f"{name} on {report['backend']} against {report['reference']}: {report['crops']} crops ({kinds})"]
    width = max(len(check["name"]) for check in report["checks"])
    for check in report["checks"]:
        lines.append(f"  {_MARKS[check['status']]}  {check['name']:{width}}  {check['detail']}")
    for d in report["divergences"]:
        place = f"{d['name']} at step {d['step']}"
        tokens = f"expected token {d['wanted']}, got {d['got']}, margin {d['margin']:.2g}"
        lines.append(f"  {'tie' if d['tie'] else 'WRONG'}: {place}: {tokens}")
    same = f"{report['identical']} sequences and {report['identical_sets']} sets of attributes identical"
    shares = (f"{report[f'log_prob_{key}']:.1e} ({share})" for key, share in _SHARES.items())
    lines.append(f"{same}, {report['ties']} ties; log-probabilities differ by {', '.join(shares)}")
    if (most := report.get("probability_max")) is not None:
        lines.append(f"probabilities of attributes differ by {most:.1e} (max)")
    if scores := report["scores"]:
        for kind, values in (("checkpoint", scores["wanted"]), ("bundle", scores["got"])):
            lines.append(
                f"{kind}: mA {100 * values['mA']:.2f}, F1 {100 * values['F1']:.2f} ({scores['people']} people)"
            )
    return "\n".join(lines)


def _page(report: Mapping[str, Any], reference: Reference, bundle: Bundle) -> str:
    from seqpar_deploy.machine import describe_machine
    from seqpar_deploy.reports.parity_page import parity_page

    crops = {crop: person.image for crop, person in enumerate(reference.people)}
    about = {
        "name": bundle.path.name,
        "digest": bundle.digest,
        "precision": bundle.precision,
        "machine": describe_machine(),
    }
    return str(parity_page(report, crops, about))
