"""`seqpar export`: checkpoint -> bundle -> engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from seqpar_deploy.backends.gpu.engine_files import Runtime
from seqpar_deploy.bundle import BatchProfile, Bundle
from seqpar_deploy.cli import options
from seqpar_deploy.cli.calibrate import SPLIT_DEFAULT, calibrate_bundle, calibration_values, load_people
from seqpar_deploy.cli.console import USAGE_ERROR, emit_result, stage
from seqpar_deploy.datasets import check_exists
from seqpar_deploy.errors import EngineError
from seqpar_deploy.evaluation.fitting.calibrate import Calibrated
from seqpar_deploy.evaluation.fitting.text import format_calibrated
from seqpar_deploy.evaluation.fitting.thresholds import parse_rule
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.files import check_writable
from seqpar_deploy.modeling.load import export_extra
from seqpar_deploy.resources import load_label_set, recipe_names

_Recipe = Annotated[
    str,
    typer.Option(
        help=f"Export recipe: {', '.join(recipe_names())}, or a TOML file. fp16 is for NVIDIA GPUs, int8 for CPUs.",
        metavar="NAME",
    ),
]
_CalibrateOn = Annotated[
    Path | None,
    typer.Option(
        help="Also calibrate the bundle on labelled people that the model was not trained on, as seqpar calibrate "
        "does: a dataset's folder, or a CSV or JSON Lines file.",
        metavar="PATH",
    ),
]
_CalibrateSplit = Annotated[
    str | None,
    typer.Option(help="Split of --calibrate-on.", metavar="NAME", show_default=SPLIT_DEFAULT),
]
_Trim = Annotated[
    bool,
    typer.Option(
        "--trim",
        help="Read crops without most of their padding: faster, and with other results than in training. See what it "
        "costs with seqpar eval --trim.",
        show_default="as in the checkpoint's training",
    ),
]

_Without = Annotated[
    str | None,
    typer.Option(
        help='Attributes that the bundle withholds for good: names or patterns with commas, for example "female,age*". '
        "No prediction of it has them, and neither have its golden data and model card.",
        metavar="NAMES",
        show_default="none",
    ),
]


def checkpoint(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint: .pth as written by the published training, or .safetensors.", metavar="CHECKPOINT"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Bundle folder to write.", metavar="FOLDER")],
    label_set: options.LabelSet = None,
    sentences: options.Sentences = False,
    recipe: _Recipe = "fp32",
    encoder: options.Encoder = None,
    decoder_heads: options.DecoderHeads = None,
    weights: options.Weights = None,
    trim: _Trim = False,
    without: _Without = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an existing bundle at --out.", show_default="fail if one exists"),
    ] = False,
    engine: Annotated[bool, typer.Option("--engine", help="Also build TensorRT engines for this machine.")] = False,
    calibrate_on: _CalibrateOn = None,
    calibrate_split: _CalibrateSplit = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Export a checkpoint to a bundle and verify it.

    The last step compares the bundle with the checkpoint on real crops. If outputs differ by more than the recipe
    allows, the command prints a one-line diagnosis, writes no bundle, and exits with code 2.

    Examples:
      seqpar export checkpoint f1_best.pth --label-set peta --out bundles/peta
      seqpar export checkpoint last.safetensors --recipe int8 --out bundles/int8
      seqpar export checkpoint best.pth --out bundles/a --calibrate-on mine.csv
    """
    names = options.names_of(without)
    check_writable(out.absolute().parent, folder=True)
    check_writable(output)
    if calibrate_on is None:
        options.check_needed("--calibrate-on", {"--calibrate-split": calibrate_split})
    if calibrate_on:  # errors now, not after minutes of export
        check_exists(calibrate_on)
        if label_set is not None:
            load_people(load_label_set(label_set), calibrate_on, calibrate_split)
    if engine:
        from seqpar_deploy.build_engines import build_engines, runtime_to_build_with

        runtime_to_build_with()  # fails now if none is installed, not after minutes of export
    chosen_recipe = load_recipe(recipe)
    with export_extra():
        from seqpar_deploy.exporting.export import export_bundle

    bundle = export_bundle(
        file,
        chosen_recipe,
        out,
        label_set=label_set,
        sentences=sentences,
        encoder=encoder,
        decoder_heads=decoder_heads,
        weights=weights,
        trim=trim,
        without=names,
        overwrite=overwrite,
        progress=stage,
    )
    engines = build_engines(bundle, progress=stage) if engine else None
    text = _format_export(bundle) + (f"\n{engines}" if engines else "")
    values = _export_values(bundle, engines)
    done: Calibrated | None = None
    if calibrate_on:
        people = load_people(bundle.label_set, calibrate_on, calibrate_split)
        done = calibrate_bundle(bundle, people, parse_rule(None, None, None))
        values["calibration"] = calibration_values(done)
        text += f"\n\n{format_calibrated(done)}"
    emit_result(values, text, as_json=as_json, output=output)
    if done and done.unreadable:
        raise typer.Exit(USAGE_ERROR)


def _export_values(bundle: Bundle, engines: Path | None) -> dict[str, Any]:
    return {
        "bundle": str(bundle.path),
        "digest": bundle.digest,
        "label_set": bundle.label_set.name,
        "precision": bundle.precision,
        "padding": bundle.padding,
        "columns": bundle.columns,
        "parity": bundle.manifest["parity"],
        "int8": bundle.manifest.get("int8"),
        "engines": str(engines) if engines else None,
        "calibration": None,
    }


def _format_export(bundle: Bundle) -> str:
    parity = bundle.manifest["parity"]
    ties = parity["ties"]
    text = (
        f"{bundle.path}: {bundle.label_set.name}, {bundle.precision}; on {parity['backend']} {parity['identical']} of "
        f"{parity['crops']} sequences equal the checkpoint's{f', {ties} differ at a tie' if ties else ''}; "
        f"log-probabilities differ by {parity['log_prob_median']:.1e} (median), {parity['log_prob_max']:.1e} (max)"
    )
    if bundle.columns:
        redefined = ", by --trim" if bundle.manifest["checkpoint"].get("redefined") else ""
        text += f"\ncrops are trimmed to {', '.join(map(str, bundle.columns))} patch columns{redefined}"
    if int8 := bundle.manifest.get("int8"):
        text += (
            f"\nint8 graphs: {int8['identical']} of {int8['crops']} sequences equal the checkpoint's without fallback; "
            f"log-probabilities differ by {int8['log_prob_median']:.1e} (median), {int8['log_prob_max']:.1e} (max); "
            f"run seqpar tune {bundle.path} to find the fallback margin"
        )
    return text


def engine(
    bundle: options.BundleArgument,
    runtime: Annotated[
        Runtime | None,
        typer.Option(
            help="TensorRT flavour to build for.", show_default="the installed one, tensorrt before tensorrt_rtx"
        ),
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(
            help="Batch profile as MIN,OPT,MAX crops, for example 1,8,32. Repeatable.",
            metavar="MIN,OPT,MAX",
            show_default="the profiles of the bundle",
        ),
    ] = None,
    hardware_compatible: Annotated[
        bool,
        typer.Option(
            "--hardware-compatible",
            help="Build for all GPUs from Ampere on. These engines are slower.",
            show_default="for this GPU only",
        ),
    ] = False,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Build for later TensorRT releases of the same major version too.",
            show_default="for this release only",
        ),
    ] = False,
    strip_weights: Annotated[
        bool,
        typer.Option(
            "--strip-weights",
            help="Omit the weights from the engines. They are read from the bundle's graphs on opening.",
        ),
    ] = False,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Build TensorRT engines from a bundle, on the target machine.

    The command writes the engines to the bundle's folder and needs no PyTorch. TensorRT builds for the GPU of this
    machine. TensorRT-RTX builds without a GPU, for all GPUs that it supports.

    Examples:
      seqpar export engine bundles/peta-fp16
      seqpar export engine bundles/peta-fp16 --batch 1,1,4 --batch 1,16,32
    """
    from seqpar_deploy.build_engines import EngineOptions, build_engines

    how = EngineOptions(
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        strip_weights=strip_weights,
    )
    opened = Bundle.open(bundle)
    check_writable(opened.path, folder=True)
    check_writable(output)
    batches = [_batch_profile(text) for text in batch] if batch else None
    engines = build_engines(opened, runtime=runtime, batches=batches, options=how, progress=stage)
    emit_result({"bundle": str(opened.path), "engines": str(engines)}, str(engines), as_json=as_json, output=output)


def _batch_profile(text: str) -> BatchProfile:
    try:
        least, usual, most = (int(part) for part in text.split(","))
    except ValueError:
        raise EngineError(
            f"--batch must be three whole numbers, got {text!r}; write MIN,OPT,MAX such as 1,8,32"
        ) from None
    if not 1 <= least <= usual <= most:
        raise EngineError(f"--batch must be MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, got {text!r}; for example 1,8,32")
    return BatchProfile(min=least, opt=usual, max=most)
