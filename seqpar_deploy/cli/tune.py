"""`seqpar tune`: find the fastest way to run a bundle on this machine that changes no token."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from seqpar_deploy.bench.tune import Tuning, format_tuning, refit_drafts
from seqpar_deploy.bench.tune import tune as tune_bundle
from seqpar_deploy.bundle import TUNED, TUNED_DRAFT, Bundle
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result, stage
from seqpar_deploy.decoding.drafts import save_head
from seqpar_deploy.files import check_writable
from seqpar_deploy.images import find_pictures, read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.sidecars import check_sidecar_writable
from seqpar_deploy.synth.render import render_person
from seqpar_deploy.tuned import save_tuned

_log = logging.getLogger(__name__)

_SEED = 4000  # of rendered people; training, calibration, parity and tests use other seeds


def tune(
    bundle: options.BundleArgument,
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            help="Crops from your own cameras: image files, folders or quoted globs.",
            metavar="PICTURES",
            show_default="20 sample crops",
        ),
    ] = None,
    crops: Annotated[
        int, typer.Option(help="Crops to measure on. Rendered people are added up to this number.", min=100)
    ] = 200,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Find the fastest way to run a bundle on this machine.

    Measure every backend and compute precision, and keep the fastest one that returns the tokens of native precision.
    The result is written to tuned.json in the bundle. seqpar predict, seqpar video and Recognizer.from_bundle use it,
    unless options override it.

    For a model that was made for crops with all their padding, the command also measures trimmed crops, as a row of the
    table. This is never chosen: a model redefined as trimmed (seqpar export checkpoint --trim) needs no re-runs.

    A bundle exported with --recipe int8 has 8-bit graphs, which are usually faster on CPUs.

    With your own crops, which need no labels, the draft head of speculative decoding is fitted to them and written to
    draft.tuned.npz. 1,000 crops are a good number.

    Examples:
      seqpar tune bundles/peta
      seqpar tune bundles/peta "crops/*.jpg" --output tuning.json
    """
    check_writable(output)
    opened = Bundle.open(bundle)
    for name in (TUNED, TUNED_DRAFT):
        check_sidecar_writable(opened, name)
    chosen = [read_image(path) for path in (find_pictures(pictures) if pictures else sample_crops())]
    chosen += [render_person(_SEED, index)[0] for index in range(crops - len(chosen))]
    if pictures and (head := refit_drafts(opened, chosen, progress=stage)):
        fitted = f"{head.calls:.2f} decoder calls per crop, {head.greedy_calls:.2f} without drafts"
        _log.info("wrote %s: %s", save_head(opened, head), fitted)
    tuning = tune_bundle(opened, chosen, progress=stage)
    machine = describe_machine()
    values = {"machine": machine, "bundle": opened.digest, **dataclasses.asdict(tuning)}
    kept = save_tuned(opened, tuning.choice, dataclasses.asdict(tuning))
    emit_result(values, _format(opened, tuning, machine), as_json=as_json, output=output)
    _log.info("wrote %s", kept)


def _format(bundle: Bundle, tuning: Tuning, machine: Mapping[str, Any]) -> str:
    choice = tuning.choice
    batches = ", ".join(f"{rate:.3g} at {size}" for size, rate in tuning.throughput.items())
    lines = [
        f"{bundle.label_set.name}, {bundle.precision}, one crop per inference; tokens compared on {tuning.crops} crops",
        f"on {machine['processor']}, {machine['cores']} cores\n",
        format_tuning(tuning),
        *(f"  skipped: {line}" for line in tuning.skipped),
        f"\ncrops per second by batch size, before fallbacks: {batches}",
    ]
    for one in tuning.configurations:
        if one.fallback_margin is not None and not one.speculative:
            lines.append(
                f"fallback margin of {one.backend}, {one.compute_precision}: 99.9 % of the margins of tokens shift by "
                f"less than {one.token_shift:.3f},\n  99.9 % of the log-odds of probabilities by less than "
                f"{one.log_odds_shift:.3f}"
            )
    if tuning.trimmed is not None:
        lines.append(tuning.trimmed.text())
    lines.append(f"chosen: {_describe(choice.threads)}, batch size {choice.batch_size}")
    return "\n".join(lines)


def _describe(threads: int | None) -> str:
    return "default threads" if threads is None else f"threads {threads}"
