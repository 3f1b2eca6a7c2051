"""Options that several commands have, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from seqpar_deploy.backends import BackendName
from seqpar_deploy.resources import label_set_names

ModelBackendName = Literal[BackendName, "torch", "torch-cuda"]
Device = Literal["cpu", "cuda"]

BundleArgument = Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)]
BundleOption = Annotated[Path, typer.Option("--bundle", "-b", help="Bundle folder.")]
Backend = Annotated[BackendName, typer.Option(help="Backend. auto takes the first that opens the bundle.")]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads per inference. Default: the backend's choice.", min=1, max=1024)
]
BatchSize = Annotated[int | None, typer.Option(help="Crops per inference. Default: the bundle's profile.", min=1)]
Beam = Annotated[int, typer.Option(help="Beam width; 1 is greedy decoding.", min=1, max=64)]
Split = Annotated[
    str | None,
    typer.Option(help="Split to evaluate. Default: test for a dataset folder, all rows for a CSV or JSON Lines file."),
]
LabelSet = Annotated[
    str | None,
    typer.Option(
        help=f"Label set the checkpoint was trained on: {', '.join(label_set_names())}, or a TOML file. "
        "Default: the one in the checkpoint."
    ),
]
Sentences = Annotated[
    bool, typer.Option("--sentences", help="The checkpoint was trained on the label set's sentences, not its phrases.")
]
Encoder = Annotated[
    str | None, typer.Option(help="open_clip model name, for a checkpoint whose encoder is not an OpenAI CLIP ViT.")
]
DecoderHeads = Annotated[int | None, typer.Option(help="Decoder attention heads. Default: one per 64 channels.", min=1)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Output = Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.", show_default=False)]
