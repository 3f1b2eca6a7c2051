"""`seqpar-export`: checkpoint -> bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.cli.console import new_app, run_app, stage
from seqpar_deploy.errors import BackendUnavailableError, LabelSetError
from seqpar_deploy.resources import label_set_names, load_label_set, recipe_names

app = new_app("Make bundles: verified ONNX graphs that run without PyTorch.")


@app.callback()
def _subcommands() -> None:
    """Keeps `checkpoint` a subcommand while it is the only one."""


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
    recipe: Annotated[str, typer.Option(help=f"{', '.join(recipe_names())}, or a TOML file of your own.")] = "fp32",
    encoder: Annotated[str | None, typer.Option(help="open_clip model, where it is not an OpenAI CLIP ViT.")] = None,
    decoder_heads: Annotated[
        int | None, typer.Option(help="Number of decoder heads, where they are not of 64 channels.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a bundle that lies at --out.")] = False,
) -> None:
    """Turn a checkpoint into a bundle, and check that the bundle says what the checkpoint says.

    The bundle comes into being only if it reproduces the checkpoint on real crops within the recipe's tolerances.
    """
    try:
        from seqpar_deploy.exporting.export import export_bundle
        from seqpar_deploy.exporting.recipe import load_recipe
        from seqpar_deploy.modeling.checkpoint import load_checkpoint
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f"exporting needs {error.name}, which is not installed; pip install 'seqpar-deploy[export]'"
        ) from None

    chosen_recipe = load_recipe(recipe)
    chosen_labels = load_label_set(label_set, sentences=sentences) if label_set else None
    with stage("reading the checkpoint"):
        loaded = load_checkpoint(file)
    if chosen_labels is None:
        if "label_set" not in loaded.metadata:
            raise LabelSetError(
                f"{file.name} does not say what it was trained on; pass --label-set, one of "
                f"{', '.join(label_set_names())} or a TOML file of your own"
            )
        chosen_labels = load_label_set(loaded.metadata["label_set"], sentences=sentences)
    bundle = export_bundle(
        loaded,
        chosen_labels,
        chosen_recipe,
        out,
        encoder=encoder,
        decoder_heads=decoder_heads,
        overwrite=overwrite,
        progress=stage,
    )
    parity = bundle.manifest["parity"]
    ties = len(parity["divergences"])
    print(
        f"{bundle.path}: {bundle.label_set.name}, {bundle.precision}; on {parity['backend']} {parity['identical']} of "
        f"{parity['crops']} sequences equal the checkpoint's{f', {ties} differ at a tie' if ties else ''}; "
        f"log-probabilities differ by {parity['log_prob_median']:.1e} (median), {parity['log_prob_max']:.1e} (at most)"
    )


def run() -> None:
    """Entry point of `seqpar-export`."""
    run_app(app)


if __name__ == "__main__":
    run()
