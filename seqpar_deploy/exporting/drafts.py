"""Fit the draft head of a new bundle on its own answers to sample and rendered crops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from seqpar_deploy.backends import BackendName, open_backend
from seqpar_deploy.bundle import DRAFT, Bundle
from seqpar_deploy.decoding.draft_fitting import collect_answers, fit_head
from seqpar_deploy.decoding.drafts import encode_head
from seqpar_deploy.exporting.recipe import Drafts
from seqpar_deploy.images import read_image
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.progress import Progress
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.synth.render import render_person

_SEED = 5000  # of rendered people; training, calibration, parity, tuning and tests use other seeds
_LEAST_CROPS = 100  # decoded even if they take longer than the budget


def write_draft_head(
    folder: Path, bundle: Bundle, drafts: Drafts, backend: BackendName, progress: Progress
) -> dict[str, Any] | None:
    """Write `draft.npz`, and return its figures for the manifest. None, and no file, if there are too few crops."""
    with progress("fitting drafts") as on_progress, closing(open_backend(bundle, backend)) as opened:
        answers = collect_answers(
            bundle,
            opened,
            _crops(),
            most=drafts.crops,
            seconds=drafts.seconds,
            least=_LEAST_CROPS,
            on_progress=on_progress,
        )
        head = None if answers is None else fit_head(answers)
    if head is None:
        return None
    (folder / DRAFT).write_bytes(encode_head(head))
    return {
        "crops": head.crops,
        "kind": "constant" if head.is_constant else "attributes",
        "calls": head.calls,
        "greedy_calls": head.greedy_calls,
    }


def _crops() -> Iterator[Crop]:
    """Yield the sample crops, then rendered ones without end."""
    for path in sample_crops():
        yield read_image(path)
    for index in itertools.count():
        yield render_person(_SEED, index)[0]
