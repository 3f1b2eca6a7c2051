"""Whether a backend reproduces a bundle's golden sequences on this machine, and the file that keeps the answer.

    verified.json   one result for each backend, SDK version, GPU, driver and pair of engines that was checked

`auto` takes a backend on NVIDIA GPUs only after this check: its code depends on a driver, a GPU and an SDK that the
export never saw. Equal means equal up to ties, as in the parity gate: where the checkpoint's two best tokens are closer
than the recipe's `tie_margin`, FP16 may choose either.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, GreedyBackend
from seqpar_deploy.backends.gpu import cuda
from seqpar_deploy.backends.gpu.engine_files import ENGINE_JSON, ENGINES
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.sidecars import sidecars, write_sidecar
from seqpar_deploy.vocab import EOS

_log = logging.getLogger(__name__)

FORMAT = 1
VERIFIED = "verified.json"
_PASSES = 3  # the first inference of a kind runs, the second is captured as a CUDA graph, the third replays it


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What a result holds for."""

    backend: str
    version: str  # of the SDK
    precision: str
    gpu: str
    compute_capability: str
    driver: int
    engines: str | None  # SHA-256 over the engines' hashes


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`failure` says in one line what differed, None if nothing did."""

    subject: Subject
    failure: str | None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `verified.json`."""

    format: int
    bundle: str  # its digest
    results: tuple[Result, ...]


def subject_of(bundle: Bundle, spec: BackendSpec) -> Subject:
    """What a check made here and now would hold for. Raises BackendUnavailableError: no SDK, or no GPU."""
    version, gpu = str(spec.load_sdk().__version__), cuda.find_gpu()
    return Subject(
        backend=spec.name,
        version=version,
        precision=bundle.precision,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        driver=gpu.driver,
        engines=_engines_digest(bundle, spec.name) if spec.needs_engines else None,
    )


def _engines_digest(bundle: Bundle, runtime: str) -> str:
    found = []
    for file in sorted((bundle.path / ENGINES).glob(f"{runtime}-*/{ENGINE_JSON}")):
        try:
            found.append(json.dumps(json.loads(file.read_bytes())["plans"], sort_keys=True))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # opening says what is wrong with it
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def known_result(bundle: Bundle, subject: Subject) -> Result | None:
    """The result that an earlier check of the same subject left."""
    found = (result for result in _results(bundle) if result.subject == subject)
    return next(found, None)


def keep_result(bundle: Bundle, result: Result) -> None:
    """Add a result to those of the bundle, in place of one of the same subject."""
    others = (other for other in _results(bundle) if other.subject != result.subject)
    verified = Verified(format=FORMAT, bundle=bundle.digest, results=(*others, result))
    try:
        write_sidecar(bundle, VERIFIED, msgspec.json.format(msgspec.json.encode(verified)) + b"\n")
    except SeqparError as error:
        _log.warning("%s cannot be kept, so the next opening checks again: %s", VERIFIED, error)


def _results(bundle: Bundle) -> list[Result]:
    """Of every readable file, the bundle folder's first."""
    results: list[Result] = []
    for path, content in sidecars(bundle, VERIFIED):
        try:
            verified = msgspec.json.decode(content, type=Verified)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _log.warning("ignoring %s: %s", path, error)
            continue
        if verified.format == FORMAT and verified.bundle == bundle.digest:
            results += verified.results
    return results


def difference_from_golden(bundle: Bundle, backend: Backend[Any]) -> str | None:
    """Where a backend leaves the checkpoint's greedy sequences of the golden crops, in one line; None if nowhere.

    Raises BackendError: it does not run at all.
    """
    assert isinstance(backend, GreedyBackend)
    golden = bundle.golden()
    crops, tokens = golden["crops"], golden["tokens"]
    size = min(len(crops), backend.max_rows or len(crops))
    batches = [slice(start, start + size) for start in range(0, len(crops), size)]
    for batch in (slice(0, 1), *batches) * _PASSES:
        state = backend.encode(crops[batch])
        output = backend.greedy(state, stop=EOS, max_steps=bundle.dimensions.capacity - 1)
        ended = [_up_to_eos(row) for row in output.next_token.tolist()]
        if problem := _problem(bundle, golden, batch, ended, output.log_probs):
            return problem
    for batch in batches:  # many tokens in one call, as in speculative decoding
        output = backend.step(backend.encode(crops[batch]), tokens[batch, :-1])
        lengths = [len(_up_to_eos(row)) for row in tokens[batch, 1:].tolist()]
        followed = [row[:length] for row, length in zip(output.next_token.tolist(), lengths, strict=True)]
        if problem := _problem(bundle, golden, batch, followed, output.log_probs):
            return f"{problem} (many tokens in one call)"
    return None


def _problem(
    bundle: Bundle, golden: dict[str, Any], batch: slice, said: Sequence[Sequence[int]], log_probs: Float32Array
) -> str | None:
    tie_margin = float(bundle.manifest["recipe"]["parity"]["tie_margin"])
    for crop, tokens in enumerate(said, start=batch.start):
        wanted = _up_to_eos(golden["tokens"][crop, 1:].tolist())
        if not np.isfinite(log_probs[crop - batch.start, : len(tokens)].max(axis=-1)).all():
            return f"golden crop {crop}: log-probabilities must be finite, got NaN or infinity"
        difference = first_difference(wanted, tokens, golden["log_probs"][crop])
        if difference is not None and not difference[1] < tie_margin:
            step, margin = difference
            return (
                f"golden crop {crop}, step {step}: tokens must be {wanted[step : step + 3]}, got "
                f"{list(tokens[step : step + 3])} (margin {margin:.2g}, a tie is below {tie_margin:g})"
            )
    return None


def first_difference(wanted: Sequence[int], got: Sequence[int], log_probs: Float32Array) -> tuple[int, float] | None:
    """The step at which a sequence leaves the reference's, and by how much the reference preferred its own token there.

    `log_probs` (S, V) are the reference's along its own sequence. To stop early or to go on after the end is no tie:
    its margin is infinite. None if the sequences are equal.
    """
    for step, (meant, said) in enumerate(itertools.zip_longest(wanted, got)):
        if meant != said:
            either_ended = meant is None or said is None
            return step, math.inf if either_ended else float(log_probs[step, meant] - log_probs[step, said])
    return None


def _up_to_eos(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens
