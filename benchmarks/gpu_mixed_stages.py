"""The stages of gpu_check.py under mixed work: correctness, also with CUDA graphs, and leaks.

Each stage is a function of a `Job` and a `Report`. The reference stage must run before.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gpu_backend_stages import Subject, can_capture, opened
from gpu_process import Report
from gpu_stages import BEAM_CROPS, Job, whole_squares

from seqpar_deploy import Recognizer
from seqpar_deploy.backends.gpu.cuda import cuda_runtime
from seqpar_deploy.bench.timing import durations
from seqpar_deploy.decoding import Greedy, Speculative
from seqpar_deploy.decoding.base import Generation
from seqpar_deploy.errors import BackendError
from seqpar_deploy.parity.gate import first_divergence
from seqpar_deploy.parity.probabilities import compare_probabilities
from seqpar_deploy.parity.reference import BEAM

SMALL = 5  # rows of a small batch
TIMES = 3  # each batch: a CUDA graph is captured at the second, and replayed from the third on
SOAK_ROUNDS = 3  # at least: the first one loads libraries, the growth is that of the others


# Mixed work


@dataclasses.dataclass
class Tally:
    """Rows that were compared with the reference. A tie is a row that differs after two equally probable tokens.

    Where the tokens are equal, the probabilities of attributes are compared too.
    """

    rows: int = 0
    ties: int = 0
    wrong: int = 0
    first_wrong: str | None = None
    probability_max: float = 0.0  # largest difference

    def greedy(self, subject: Subject, crops: Sequence[int], generations: Sequence[Generation], where: str) -> None:
        for row, (crop, generation) in enumerate(zip(crops, generations, strict=True)):
            found = first_divergence(subject.answers, crop, generation.tokens, subject.tolerances.tie_margin)
            self._count(f"{where}, row {row}: {found}", found is None, found is not None and found.tie)
            self._probabilities(subject, crop, generation, f"{where}, row {row}")

    def beams(self, subject: Subject, crops: Sequence[int], generations: Sequence[Generation], where: str) -> None:
        for row, (crop, generation) in enumerate(zip(crops, generations, strict=True)):
            expected = subject.answers.beam(crop)
            equal = generation.tokens == expected
            said = f"{where}, row {row}: crop {crop}: got {generation.tokens}, expected {expected}"
            self._count(said, equal, not equal and _is_tie(subject, crop, generation))
            self._probabilities(subject, crop, generation, f"{where}, row {row}")

    def _probabilities(self, subject: Subject, crop: int, generation: Generation, where: str) -> None:
        """Compare them if the tokens are those of the greedy sequence. Wrong ones count as a wrong row."""
        answer = (where, crop, generation)
        wrong, _, most = compare_probabilities(subject.answers, [answer], subject.tolerances.log_prob_max)
        self.probability_max = max(self.probability_max, most or 0.0)
        if wrong:
            self.wrong += 1
            self.first_wrong = self.first_wrong or wrong

    def _count(self, said: str, equal: bool, tie: bool) -> None:
        self.rows += 1
        self.ties += tie
        if not equal and not tie:
            self.wrong += 1
            self.first_wrong = self.first_wrong or said

    def __add__(self, other: Tally) -> Tally:
        first = self.first_wrong or other.first_wrong
        most = max(self.probability_max, other.probability_max)
        return Tally(self.rows + other.rows, self.ties + other.ties, self.wrong + other.wrong, first, most)


def _is_tie(subject: Subject, crop: int, got: Generation) -> bool:
    """Return whether two beams have the same score within the tolerance, or one was replaced by an equal one."""
    assert subject.answers.beam_margins is not None
    expected = subject.answers.beam(crop)
    fed = np.concatenate([subject.answers.tokens[crop, :1], expected[:-1]])[None]
    output = subject.backend.step(subject.backend.encode(subject.answers.crops[[crop]]), fed)
    score = float(output.log_probs[0, np.arange(len(expected)), list(expected)].sum())
    margin = min(abs(score - sum(got.log_probs)), float(subject.answers.beam_margins[crop]))
    return margin < subject.tolerances.tie_margin


def mixed(job: Job, report: Report) -> None:
    """Compare tokens with the reference in batches of changing size, beams, guesses and two threads."""
    with opened(job, report) as subject:
        for work in (interleaved, beams, speculative, threads):
            with report.step(work.__name__):
                report(**{work.__name__: dataclasses.asdict(work(subject))})


def interleaved(subject: Subject) -> Tally:
    """Run batches of 5, 64, 5 and 64 rows three times, with other crops each time."""
    tally = Tally()
    for place, rows in enumerate((SMALL, subject.large, SMALL, subject.large)):
        for time_ in range(TIMES):
            crops = subject.batch(rows, TIMES * place + time_)
            tally.greedy(subject, crops, subject.generate(crops, Greedy()), f"{rows} rows, batch {place}.{time_}")
    return tally


def beams(subject: Subject) -> Tally:
    """Run three beams of some crops in one batch, three times."""
    tally, crops = Tally(), subject.answers.beamed[: max(SMALL, subject.large // BEAM.width)]
    for time_ in range(TIMES):
        tally.beams(subject, crops, subject.generate(crops, BEAM), f"beams, batch {time_}")
    return tally


def speculative(subject: Subject) -> Tally:
    tally = Tally()
    for number, rows in enumerate((1, SMALL, 1, SMALL)):
        crops = subject.batch(rows, number)
        tally.greedy(subject, crops, subject.generate(crops, Speculative()), f"speculative, batch {number}")
    return tally


def threads(subject: Subject) -> Tally:
    """Run two threads at the same time: one decodes batches of both sizes, the other also beams and guesses."""
    begin = threading.Barrier(2)

    def greedy() -> Tally:
        tally = Tally()
        begin.wait()
        for number in range(2 * TIMES):
            crops = subject.batch((SMALL, subject.large)[number % 2], number)
            tally.greedy(subject, crops, subject.generate(crops, Greedy()), f"thread 1, batch {number}")
        return tally

    def others() -> Tally:
        tally, beamed = Tally(), subject.answers.beamed[:SMALL]
        begin.wait()
        for number in range(TIMES):
            crops = subject.batch(subject.large, 100 + number)
            tally.greedy(subject, crops, subject.generate(crops, Greedy()), f"thread 2, batch {number}")
            tally.beams(subject, beamed, subject.generate(beamed, BEAM), f"thread 2, beams {number}")
            crops = subject.batch(SMALL, 200 + number)
            tally.greedy(subject, crops, subject.generate(crops, Speculative()), f"thread 2, speculative {number}")
        return tally

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(work) for work in (greedy, others))
        return first.result() + second.result()


def replays(job: Job, report: Report) -> None:
    """Compare repeated runs of the same batches, without CUDA graphs and with them.

    The first run is the reference of the others, so differences without graphs come from the backend's kernels.
    """
    report(cuda_graphs=can_capture(job.backend))
    expected: list[Generation] = []
    figures: dict[str, dict[str, Any]] = {}
    for graphs in (False, True):
        found = figures.setdefault("graphs" if graphs else "no graphs", {"rows": 0, "tokens_that_differ": 0})
        with contextlib.ExitStack() as stack:
            try:
                subject = stack.enter_context(opened(job, report, graphs=graphs))
            except BackendError as error:  # with some versions of ONNX Runtime there must be no graphs
                if not graphs:
                    raise
                found["unavailable"] = str(error)
                report(at=None, **figures)
                return
            stack.enter_context(report.step(f"with graphs: {graphs}"))
            for _ in range(TIMES + 1):
                expected = _run_again(subject, expected, found)
                report(**figures)
            one = functools.partial(subject.generate, [0], Greedy())
            found["one_crop_ms"] = 1e3 * float(np.median(durations(one, seconds=job.seconds / 2)))
            report(**figures)


def _run_again(subject: Subject, expected: list[Generation], found: dict[str, Any]) -> list[Generation]:
    """Decode batches of three sizes, count differences from `expected` unless it is empty, and return the results."""
    batches = [subject.batch(rows, number) for number, rows in enumerate((1, SMALL, subject.large))]
    got = [generation for batch in batches for generation in subject.generate(batch, Greedy())]
    expected = expected or got
    differences = [_difference(one, other) for one, other in zip(got, expected, strict=True)]
    found["rows"] += len(got)
    found["tokens_that_differ"] += differences.count(None)
    known = [difference for difference in differences if difference is not None]
    found["largest_difference"] = max([found.get("largest_difference", 0.0), *known])
    return expected


def _difference(one: Generation, other: Generation) -> float | None:
    """Return the largest difference of log-probabilities of all tokens, None if the emitted tokens differ."""
    if one.tokens != other.tokens:
        return None
    return float(np.abs(one.distributions - other.distributions).max())


# What is left behind


def soak(job: Job, report: Report) -> None:
    """Open, run mixed work and close repeatedly, and measure the growth of memory, threads and open files."""
    looks = [held(job.device)]
    end = time.monotonic() + job.soak_seconds
    rounds = 0
    while rounds < SOAK_ROUNDS or time.monotonic() < end:
        with opened(job, report) as subject, report.step("mixed work"):
            for rows in (SMALL, subject.large):
                subject.generate(subject.batch(rows, rounds), Greedy())
            subject.generate(subject.answers.beamed[: min(BEAM_CROPS, subject.large // BEAM.width)], BEAM)
            subject.generate(subject.batch(SMALL, rounds), Speculative())
            subject.backend.encode(subject.answers.crops[:SMALL])  # a batch that nobody decodes
            with Recognizer(whole_squares(subject.bundle), subject.backend, batch_size=subject.large) as recognizer:
                recognizer.predict([subject.answers.crops[0]] * 3)
        del subject, recognizer
        gc.collect()
        rounds += 1
        looks.append(held(job.device))
        first, last = looks[1], looks[-1]
        growth = {key: round(last[key] - first[key], 2) for key in first}
        report(rounds=rounds, before=looks[0], first=first, last=last, growth=growth)


def held(device: str) -> dict[str, float]:
    """Return this process's resident memory, threads and open files, and the GPU memory in use by all processes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {
        "resident_mb": int(status["VmRSS"].split()[0]) / 1e3,
        "threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
    }
    if device == "cuda":
        error, free, total = cuda_runtime().cudaMemGetInfo()
        if int(error) == 0:
            found["device_mb"] = (int(total) - int(free)) / 1e6
    return found
