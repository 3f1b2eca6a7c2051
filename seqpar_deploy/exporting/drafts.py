"""Fit the draft head of a new bundle on its own answers to sample, varied and rendered crops.

A varied sample crop takes a fortieth of the time of a rendered one, and real people are what a bundle sees. On other
real people, the head of the demo model takes 2.61 calls with 280 rendered crops, 2.39 with 980, and 2.28 with 280
rendered and 700 varied ones (`held_out_calls`, which are more than those of `Speculative`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

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
from seqpar_deploy.synth.variation import vary_crop

_SEED = 5000  # of rendered people; training, calibration, parity, tuning and tests use other seeds
_LEAST_CROPS = 100  # decoded even if they take longer than the budget
_RENDERED = 0.3  # share of the crops after the sample crops. The others are varied sample crops


def write_draft_head(
    folder: Path, bundle: Bundle, drafts: Drafts, backend: BackendName, progress: Progress
) -> dict[str, Any] | None:
    """Write `draft.npz`, and return its figures for the manifest. None, and no file, if there are too few crops."""
    people: list[int] = []
    with progress("fitting drafts") as on_progress, closing(open_backend(bundle, backend)) as opened:
        answers = collect_answers(
            bundle,
            opened,
            _crops(people),
            most=drafts.crops,
            seconds=drafts.seconds,
            least=_LEAST_CROPS,
            on_progress=on_progress,
        )
        if answers is None:
            return None
        # Crops of one person stand side by side, so that folds hold out people.
        by_person = sorted(range(len(answers.places)), key=lambda row: people[answers.places[row]])
        head = fit_head(answers.rows(by_person))
    if head is None:
        return None
    (folder / DRAFT).write_bytes(encode_head(head))
    return {
        "crops": head.crops,
        "kind": "constant" if head.is_constant else "attributes",
        "calls": head.calls,
        "greedy_calls": head.greedy_calls,
    }


def _crops(people: list[int]) -> Iterator[Crop]:
    """Yield the sample crops, then rendered people and varied sample crops without end. Add each person to `people`."""
    sample = [read_image(path) for path in sample_crops()]
    for person, crop in enumerate(sample):
        people.append(person)
        yield crop
    rng = np.random.default_rng(_SEED)
    rendered = varied = 0
    while True:
        if rendered < _RENDERED * (rendered + varied + 1):
            people.append(len(sample) + rendered)
            yield render_person(_SEED, rendered)[0]
            rendered += 1
        else:
            person = varied % len(sample)
            people.append(person)
            crop = vary_crop(sample[person], rng, margin=0.15, blur=0.5, colour=0.4, erase=0.3)
            yield np.ascontiguousarray(crop[:, ::-1]) if varied // len(sample) % 2 else crop
            varied += 1
