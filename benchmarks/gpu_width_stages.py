"""The stages of gpu_check.py on trimmed crops and drafts: crops of 1:1, 1:2, 1:2.5 and 1:3, trimmed and whole.

The bundle reads trimmed crops. Its graph also reads whole squares, as a model of untrimmed crops would, so one set of
engines serves both variants. Each stage is a function of a `Job` and a `Report`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gpu_backend_stages import SMALL, Subject, opened
from gpu_mixed_stages import Tally
from gpu_process import Report
from gpu_stages import BATCH, Job, crops_of, full_precision, load_reference, save_reference
from PIL import Image

from seqpar_deploy import Bundle
from seqpar_deploy.backends.base import Float32Array
from seqpar_deploy.bench.flops import encoder_flops
from seqpar_deploy.bench.timing import durations, median_seconds
from seqpar_deploy.decoding import Greedy, Speculative
from seqpar_deploy.decoding.base import Draft, Generation
from seqpar_deploy.parity.reference import Reference, reference_generations
from seqpar_deploy.preprocess import CropBatch, prepare_batch
from seqpar_deploy.vocab import FIRST_ATTRIBUTE

SHAPES = {"1:1": (256, 256), "1:2": (256, 128), "1:2.5": (255, 102), "1:3": (255, 85)}  # height, width of crops
CROPS = 8  # of each shape


def variants(bundle: Bundle, number: int = CROPS) -> dict[str, CropBatch]:
    """Return prepared crops (B, H, W, 3) of each shape, whole and, if any column goes, trimmed."""
    found: dict[str, CropBatch] = {}
    for name, (height, width) in SHAPES.items():
        crops = [np.asarray(Image.fromarray(crop).resize((width, height))) for crop in crops_of(number)]
        whole = prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)
        found[f"{name} whole"] = whole
        if trimming := bundle.trimming:
            columns = trimming.columns_of(crops[0], bundle.preprocessing)
            if columns < bundle.dimensions.grid:
                found[f"{name} trimmed"] = np.ascontiguousarray(trimming.trim(whole, columns))
    return found


def shapes(job: Job, report: Report) -> None:
    """Run eager PyTorch in FP32 on every variant: the reference of the stage `widths`, and its speed."""
    full_precision()
    from seqpar_deploy.modeling.eager import CachedEagerBackend
    from seqpar_deploy.modeling.load import load_network

    bundle = job.bundle
    with report.step("loading the checkpoint"):
        loaded = load_network(job.checkpoint, bundle=bundle, device=job.device)
        eager = CachedEagerBackend(loaded.network, loaded.token_table, bundle.preprocessing)
    steps = bundle.dimensions.capacity - 1
    for name, prepared in variants(bundle, min(CROPS, job.crops)).items():
        with report.step(name):
            save_reference(job, reference_generations(eager, prepared, max_steps=steps, batch_size=BATCH), name)
            pooled = _pooled(eager.encode(prepared))
            if pooled is not None:
                np.save(job.pooled_file(name), pooled)
            one = itertools.cycle(range(len(prepared)))

            def decode(prepared: CropBatch = prepared, one: Iterator[int] = one) -> None:
                Greedy().generate(eager, eager.encode(prepared[[next(one)]]), max_steps=steps)

            ms = 1e3 * float(np.median(durations(decode, job.device, seconds=job.seconds / 4)))
            report(**{name: {"image_pixels": list(prepared.shape[1:3]), "one_crop_ms": ms}})


def _pooled(state: Any) -> Float32Array | None:
    pooled: Float32Array | None = getattr(state, "pooled", None)
    return pooled


def widths(job: Job, report: Report) -> None:
    """Compare and measure each variant: tokens, pooled features, and latency with and without drafts.

    Batches of all widths follow one another on one backend, as in use.
    """
    with opened(job, report) as subject:
        names = list(variants(subject.bundle, 1))
        of = {name: dataclasses.replace(subject, answers=load_reference(job, name)) for name in names}
        with report.step("mixed"):
            report(mixed=dataclasses.asdict(_mixed(of)))
        for name, variant in of.items():
            with report.step(name):
                report(**{name: _figures(job, variant) | {"pooled_error": _pooled_error(job, variant, name)}})


def _mixed(of: Mapping[str, Subject]) -> Tally:
    """Run batches of every variant one after the other, three times, some with drafts."""
    tally = Tally()
    for round_, (name, subject) in itertools.product(range(3), of.items()):
        crops = subject.batch(min(SMALL, subject.large), round_)
        for kind, drafts in (("greedy", None), *_drafts(subject.answers, crops).items()):
            where = f"{name}, {kind}, round {round_}"
            tally.greedy(subject, crops, _generate(subject, crops, drafts), where)
    return tally


def _drafts(answers: Reference, crops: Sequence[int]) -> dict[str, list[Draft]]:
    """Return drafts that are right, which is the best case, and drafts with a wrong first token."""
    right = [answers.sequence(crop) for crop in crops]
    wrong = [(FIRST_ATTRIBUTE + (tokens[0] == FIRST_ATTRIBUTE), *tokens[1:]) for tokens in right]
    return {"guesses": [None] * len(right), "right drafts": [*right], "wrong drafts": [*wrong]}


def _generate(subject: Subject, crops: Sequence[int], drafts: Sequence[Draft] | None) -> list[Generation]:
    """Decode greedily, or if there are drafts, speculatively."""
    state = subject.backend.encode(subject.answers.crops[list(crops)])
    strategy = Greedy() if drafts is None else Speculative()
    return strategy.generate(subject.backend, state, max_steps=subject.max_steps, drafts=drafts)


def _figures(job: Job, subject: Subject) -> dict[str, Any]:
    """Return the figures of one variant: one crop with each way of decoding, and large batches."""
    answers, d = subject.answers, subject.bundle.dimensions
    every, columns = range(len(answers.crops)), answers.crops.shape[2] // d.patch_size
    figures: dict[str, Any] = {"columns": columns}
    for kind in ("greedy", "guesses", "right drafts", "wrong drafts"):
        tally, steps, one = Tally(), [], itertools.cycle(every)

        def decode(crop: int, kind: str = kind) -> list[Generation]:
            drafts = None if kind == "greedy" else _drafts(answers, [crop])[kind]
            return _generate(subject, [crop], drafts)

        for crop in every:
            generations = decode(crop)
            tally.greedy(subject, [crop], generations, kind)
            steps.append(generations[0].steps)
        taken = durations(lambda one=one: decode(next(one)), job.device, seconds=job.seconds / 4)  # type: ignore[misc]
        figures[kind] = {
            "one_crop_ms": 1e3 * float(np.median(taken)),
            "steps": float(np.mean(steps)),
            "rows": tally.rows,
            "ties": tally.ties,
            "wrong": tally.wrong,
        }
    for rows in (1, subject.large):
        batch = np.resize(answers.crops, (rows, *answers.crops.shape[1:]))
        seconds = median_seconds(lambda b=batch: _encode(subject, b), job.device, seconds=job.seconds / 4)  # type: ignore[misc]
        figures[f"encode_{rows}_ms"] = 1e3 * seconds
        if job.roofline:
            flops = encoder_flops(subject.bundle, rows, columns) / seconds
            figures[f"encode_{rows}_share_of_gemm"] = flops / job.roofline[f"{subject.bundle.precision}_flops"]
    return figures


def _encode(subject: Subject, batch: CropBatch) -> None:
    """Encode a batch and wait for it: `durations` waits for the device."""
    subject.backend.encode(batch)


def _pooled_error(job: Job, subject: Subject, name: str) -> float | None:
    """Return the largest relative error of a row's pooled features to the checkpoint's. None if either has none."""
    got, file = _pooled(subject.backend.encode(subject.answers.crops)), job.pooled_file(name)
    if got is None or not file.exists():
        return None
    expected = np.load(file)
    return float(np.max(np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)))
