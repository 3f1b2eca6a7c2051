"""Count decoder calls per crop of the demo model: greedy, Jacobi guesses, and drafts.

    .venv/bin/python benchmarks/drafts.py --people people/labels.csv --street runs/vtest/people.csv

A call is a decoder step of one row, one crop per batch. Still crops are the 166 people that the demo model's training
held out. Heads are fitted as exported (sample and rendered crops), and as after `seqpar tune` on other people: 870 real
ones without their labels, with rendered ones up to 1,000. On the street video, a crop's draft is the sequence of the
same track 5 frames before. No head is fitted on crops that it is counted on. The exported head knows 20 sample crops,
which are of the street video, so the street is also counted with a head that was fitted without them.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import json
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import export_demo

from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli.console import stage
from seqpar_deploy.datasets.table import load_table
from seqpar_deploy.decoding import DraftHead, Generation, Greedy, Speculative, Strategy
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.decoding.draft_fitting import Answers, collect_answers, fit_head
from seqpar_deploy.decoding.drafts import load_head
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import Crop, columns_read, prepare_batch
from seqpar_deploy.synth.render import render_person

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "drafts.json"
RENDERED_SEED = 6000  # of no training, test, export or calibration
GAP = 5  # frames between a crop and the one that drafts it
TUNED = "after tune, real and rendered, 1000"
Tokens = list[tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Way:
    """A strategy, and its drafts: given ones, or the sequence of the same track `GAP` frames before."""

    strategy: Strategy
    drafts: Sequence[Draft] | None = None
    earlier: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, required=True, help="CSV of real people, with groups")
    parser.add_argument("--street", type=Path, required=True, help="CSV of examples/cut_tracks.py")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "drafts", help="folder for the bundle")
    parser.add_argument("--bundle", type=Path, help="bundle of the demo model; default: a new export")
    parser.add_argument("--backend", default="onnxruntime", help="backend; default: onnxruntime")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle) if options.bundle else export_demo(options.work / "demo", progress=stage)
    exported = load_head(bundle)
    assert exported is not None
    test, train = (crops_of(load_table(options.people, bundle.label_set, split)) for split in ("test", "train"))
    street, before = street_crops(options.street)
    rendered = [render_person(RENDERED_SEED, index)[0] for index in range(1000)]
    with stage("answers of the model"), closing(open_backend(bundle, options.backend, threads=1)) as backend:
        of_train, of_rendered = (answers(bundle, backend, crops) for crops in (train, rendered))
    heads = fitted(of_train, of_rendered, exported)

    measured: dict[str, Any] = {}
    with closing(open_backend(bundle, options.backend, threads=1)) as backend:
        count = Counter(bundle, backend)
        measured["still"] = count.still(test, heads)
        measured["street"] = count.street(street, before, heads)
    values = {
        "what": "mean decoder calls per crop of the demo model, one crop per batch",
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "backend": options.backend,
        "people": {"tested": len(test), "fitted": len(train)},
        "street_crops": len(street),
        "street_crops_with_an_earlier_one": sum(row is not None for row in before),
        "exported_head": {name: getattr(exported, name) for name in ("crops", "calls", "greedy_calls")},
        "results": measured,
    }
    write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())
    print(json.dumps(measured, indent=2))


def crops_of(dataset: Any) -> list[Crop]:
    return [dataset.crop(row) for row in range(len(dataset))]


def street_crops(file: Path) -> tuple[list[Crop], list[int | None]]:
    """Return the crops, and for each one the row of its track's crop `GAP` frames before."""
    with file.open() as rows:
        names = [row["image"] for row in csv.DictReader(rows)]
    places = [tuple(map(int, re.findall(r"\d+", name)[:2])) for name in names]  # track, frame
    rows_of = {place: row for row, place in enumerate(places)}
    return [read_image(file.parent / name) for name in names], [
        rows_of.get((track, frame - GAP)) for track, frame in places
    ]


def answers(bundle: Bundle, backend: Any, crops: list[Crop]) -> Answers:
    found = collect_answers(bundle, backend, crops, most=len(crops))
    assert found is not None
    return found


def together(*some: Answers) -> Answers:
    return Answers(
        pooled=np.concatenate([one.pooled for one in some]),
        tokens=[tokens for one in some for tokens in one.tokens],
        odds=np.concatenate([one.odds for one in some]),
        places=[place for one in some for place in one.places],
    )


def fitted(real: Answers, rendered: Answers, exported: DraftHead) -> dict[str, DraftHead]:
    order = np.random.default_rng(0).permutation(len(real.tokens))
    made = {"as exported": exported}
    for crops in (50, 200, 1000):
        few = order[: min(crops, len(order))].tolist()
        made[f"rendered, {crops}"] = head(rendered.rows(range(crops)))
        made[f"real, {len(few)}"] = head(real.rows(few))
        half = order[: crops // 2].tolist()
        made[f"half real and half rendered, {crops}"] = head(
            together(real.rows(half), rendered.rows(range(crops - len(half))))
        )
    tuned = together(real, rendered.rows(range(1000 - len(real.tokens))))
    made[TUNED] = head(tuned)
    return made


def head(answers: Answers) -> DraftHead:
    made = fit_head(answers)
    assert made is not None
    return made


class Counter:
    """Decode crops one by one, each in every way, and count calls. Tokens that differ from greedy ones count too."""

    def __init__(self, bundle: Bundle, backend: Any) -> None:
        self._bundle, self._backend = bundle, backend

    def still(self, crops: Sequence[Crop], heads: dict[str, DraftHead]) -> dict[str, Any]:
        ways: dict[str, Way] = {
            "Jacobi guesses": Way(Speculative()),
            "constant draft": Way(Speculative(), [heads["as exported"].constant] * len(crops)),
            **{name: Way(Speculative(head=one)) for name, one in heads.items()},
        }
        with stage("still crops") as on_progress:
            return self._counted(crops, ways, [None] * len(crops), on_progress)[0]

    def street(self, crops: Sequence[Crop], before: list[int | None], heads: dict[str, DraftHead]) -> dict[str, Any]:
        ways: dict[str, Way] = {"earlier sequence alone": Way(Speculative(), earlier=True)}
        for name in ("as exported", "rendered, 200", TUNED):
            strategy = Speculative(head=heads[name])
            ways[name] = Way(strategy)
            ways[f"{name}, and the earlier sequence"] = Way(strategy, earlier=True)
        with stage("street") as on_progress:
            found, expected = self._counted(crops, ways, before, on_progress)
        same = [expected[row] == expected[earlier] for row, earlier in enumerate(before) if earlier is not None]
        return {f"same sequence as {GAP} frames before": round(float(np.mean(same)), 3), **found}

    def _counted(
        self, crops: Sequence[Crop], ways: dict[str, Way], before: list[int | None], on_progress: Any
    ) -> tuple[dict[str, Any], Tokens]:
        greedy: list[Generation] = []
        found: dict[str, list[Generation]] = {name: [] for name in ways}
        for row, crop in enumerate(crops):
            state = self._encoded(crop)
            greedy += self._decoded(state, Greedy(), None)
            for name, way in ways.items():
                draft = None if way.drafts is None else way.drafts[row]
                if way.earlier and (earlier := before[row]) is not None:
                    draft = greedy[earlier].tokens
                found[name] += self._decoded(state, way.strategy, draft)
            on_progress(row + 1, len(crops))
        expected = [one.tokens for one in greedy]
        values = {name: _summary(some, expected) for name, some in found.items()}
        return {"greedy": {"calls": round(float(np.mean([one.steps for one in greedy])), 3)}, **values}, expected

    def _encoded(self, crop: Crop) -> Any:
        bundle = self._bundle
        size, preprocessing = bundle.dimensions.image_size, bundle.preprocessing
        prepared = prepare_batch([crop], image_size=size, preprocessing=preprocessing)
        if bundle.trimming:
            columns = columns_read(crop, bundle.trimming, preprocessing)
            prepared = np.ascontiguousarray(bundle.trimming.trim(prepared, columns))
        return self._backend.encode(prepared)

    def _decoded(self, state: Any, strategy: Strategy, draft: Draft) -> list[Generation]:
        state.truncate(np.zeros(1, dtype=np.int64))
        return strategy.generate(self._backend, state, max_steps=self._bundle.dimensions.capacity - 1, drafts=[draft])


def _summary(some: list[Generation], expected: Tokens) -> dict[str, Any]:
    calls = np.array([one.steps for one in some])
    return {
        "calls": round(float(calls.mean()), 3),
        "in_one_call": round(float((calls == 1).mean()), 3),
        "in_two_calls_or_fewer": round(float((calls <= 2).mean()), 3),
        "different_tokens": sum(one.tokens != tokens for one, tokens in zip(some, expected, strict=True)),
    }


if __name__ == "__main__":
    main()
