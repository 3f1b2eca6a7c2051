"""The options of `seqpar video` for privacy. `--without` is in `options.py`, since other commands have it."""

from __future__ import annotations

from typing import Annotated

import typer

from seqpar_deploy.video.privacy.blur import Blur as BlurKind

Blur = Annotated[
    BlurKind | None,
    typer.Option(
        help="Blur heads or whole people in all pictures that leave: annotated videos, preview, report, and crops. "
        "Only people whom the detector finds can be blurred. Until it is ready, whole frames are.",
        show_default="nothing is blurred",
    ),
]
