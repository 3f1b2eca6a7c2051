"""`seqpar-export`: checkpoint -> bundle -> engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.backends.gpu.engine_files import Runtime
from seqpar_deploy.bundle import BatchProfile
from seqpar_deploy.cli.console import new_app, run_app, stage
from seqpar_deploy.errors import EngineError
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.modeling.load import export_extra
from seqpar_deploy.resources import label_set_names, recipe_names

app = new_app("Make bundles, verified ONNX graphs that run without PyTorch, and TensorRT engines from them.")


@app.command()
def checkpoint(
    file: Annotated[Path, typer.Argument(help="A .pth as the published training saves it, or .safetensors.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle folder to make.")],
    label_set: Annotated[
        str | None,
        typer.Option(help=f"What it was trained on: {', '.join(label_set_names())}, or a TOML file of your own."),
    ] = None,
    sentences: Annotated[
        bool,
        typer.Option("--sentences", help="It was trained on the label set's full sentences, not its short phrases."),
    ] = False,
    recipe: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(recipe_names())} (fp32, int8 for CPUs, fp16 for NVIDIA GPUs), or a TOML file of your own."
        ),
    ] = "fp32",
    encoder: Annotated[str | None, typer.Option(help="open_clip model, where it is not an OpenAI CLIP ViT.")] = None,
    decoder_heads: Annotated[
        int | None, typer.Option(help="Number of decoder heads, where they are not of 64 channels.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that lies at --out.")] = False,
    engine: Annotated[bool, typer.Option("--engine", help="Build TensorRT engines too, for this machine.")] = False,
) -> None:
    """Turn a checkpoint into a bundle, and check that the bundle says what the checkpoint says.

    The bundle comes into being only if it reproduces the checkpoint on real crops within the recipe's tolerances.
    """
    if engine:
        from seqpar_deploy.build_engines import build_engines, runtime_to_build_with

        runtime_to_build_with()  # before minutes of work
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
        overwrite=overwrite,
        progress=stage,
    )
    parity = bundle.manifest["parity"]
    ties = parity["ties"]
    print(
        f"{bundle.path}: {bundle.label_set.name}, {bundle.precision}; on {parity['backend']} {parity['identical']} of "
        f"{parity['crops']} sequences equal the checkpoint's{f', {ties} differ at a tie' if ties else ''}; "
        f"log-probabilities differ by {parity['log_prob_median']:.1e} (median), {parity['log_prob_max']:.1e} (at most)"
    )
    if int8 := bundle.manifest.get("int8"):
        print(
            f"its 8-bit graphs: {int8['identical']} of {int8['crops']} sequences equal the checkpoint's as they come, "
            f"log-probabilities differ by {int8['log_prob_median']:.1e} and {int8['log_prob_max']:.1e}; "
            f"seqpar tune {bundle.path} finds what to recheck"
        )
    if engine:
        print(build_engines(bundle, progress=stage))


@app.command()
def engine(
    bundle: Annotated[Path, typer.Argument(help="The bundle; the engines are put into its folder.")],
    runtime: Annotated[
        Runtime | None, typer.Option(help="Which flavour of TensorRT; by default the one that is installed.")
    ] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option(help="Crops a batch as FEWEST,USUAL,MOST; may be given again. By default the bundle's profiles."),
    ] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Run on every GPU from Ampere on, slower than on its own.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run on later versions of the same major one.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave out the weights; opening puts them back from the graphs.")
    ] = False,
) -> None:
    """Build TensorRT engines of a bundle, on the machine that is to run them.

    Needs no PyTorch. TensorRT tunes for the GPU it finds; TensorRT-RTX builds without one, for all GPUs it knows.
    """
    from seqpar_deploy.build_engines import EngineOptions, build_engines
    from seqpar_deploy.bundle import Bundle

    options = EngineOptions(
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
        strip_weights=strip_weights,
    )
    opened = Bundle.open(bundle)
    batches = [_batch_profile(text) for text in batch] if batch else None
    print(build_engines(opened, runtime=runtime, batches=batches, options=options, progress=stage))


def _batch_profile(text: str) -> BatchProfile:
    try:
        least, usual, most = (int(part) for part in text.split(","))
    except ValueError:
        raise EngineError(f"--batch is {text!r}, wanted three numbers such as 1,8,32") from None
    if not 1 <= least <= usual <= most:
        raise EngineError(f"--batch is {text!r}, wanted 1 <= fewest <= usual <= most")
    return BatchProfile(min=least, opt=usual, max=most)


def run() -> None:
    """Entry point of `seqpar-export`."""
    run_app(app)


if __name__ == "__main__":
    run()
