"""Options that several commands share. `complete` in `help.py` adds choices, default and limits to each help text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from seqpar_deploy.backends import BackendName
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.resources import label_set_names

ModelBackendName = Literal[BackendName, "torch", "torch-cuda"]
Device = Literal["cpu", "cuda"]

_FIRST = "auto takes the first backend that can open the bundle."

BundleArgument = Annotated[Path, typer.Argument(help="Bundle folder, as written by seqpar export.", metavar="BUNDLE")]
BundleOption = Annotated[
    Path, typer.Option("--bundle", "-b", help="Bundle folder, as written by seqpar export.", metavar="FOLDER")
]
Backend = Annotated[BackendName, typer.Option(help=f"Backend that runs the bundle. {_FIRST}")]
TunedBackend = Annotated[
    BackendName,
    typer.Option(
        help="Backend that runs the bundle. auto takes the one that seqpar tune chose on this machine, else the first "
        "that can open the bundle."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads per inference.", show_default="the backend's choice", min=1, max=1024),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Crops per inference.", show_default="the largest batch of the bundle", min=1)
]
Beam = Annotated[int, typer.Option(help="Beam width. 1 is greedy decoding.", min=1, max=64)]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split to evaluate.",
        metavar="NAME",
        show_default="test for a dataset folder, all rows for a CSV or JSON Lines file",
    ),
]
Thresholds = Annotated[
    Path | None,
    typer.Option(
        help="Thresholds of the states yes, no and unknown (TOML).",
        metavar="FILE",
        show_default="those of the bundle's calibration",
    ),
]
LabelSet = Annotated[
    str | None,
    typer.Option(
        help=f"Label set the checkpoint was trained on: {', '.join(label_set_names())}, or a TOML file.",
        metavar="NAME",
        show_default="the label set in the checkpoint",
    ),
]
Sentences = Annotated[
    bool,
    typer.Option(
        "--sentences",
        help="Use the label set's sentences as text prompts, for a checkpoint trained on them.",
        show_default="its phrases, which are shorter",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        help="open_clip model name of the image encoder, for a checkpoint with another encoder than OpenAI's CLIP ViT.",
        metavar="NAME",
        show_default="read from the checkpoint",
    ),
]
DecoderHeads = Annotated[
    int | None, typer.Option(help="Attention heads of the decoder.", show_default="one per 64 channels", min=1)
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Weights to use if the checkpoint holds several sets, for example model_ema.",
        metavar="NAME",
        show_default="the trained weights",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of text.")]
Output = Annotated[Path | None, typer.Option(help="Also write the result as JSON to this file.", metavar="FILE")]


Without = Annotated[
    str | None,
    typer.Option(
        help='Keep attributes out of all results: names or patterns with commas, for example "female,age*". Case does '
        "not count. Decoding is unchanged.",
        metavar="NAMES",
    ),
]


def check_needed(needed: str, options: Mapping[str, object]) -> None:
    """Raise SeqparError if one of `options`, which have no effect without `needed`, was given.

    Args:
        needed: The option or argument that is missing.
        options: Value by option name. None and False are options that were not given.
    """
    for option, value in options.items():
        if value is not None and value is not False:
            raise SeqparError(f"{option} needs {needed}; add {needed}, or omit {option}")


def names_of(without: str | None) -> list[str]:
    """Return the names and patterns of --without. Raises SeqparError for an empty one."""
    if without is None:
        return []
    names = [name.strip() for name in without.split(",")]
    if not all(names):
        raise SeqparError(f'--without must be names with commas, got {without!r}; for example "female,age*"')
    return names
