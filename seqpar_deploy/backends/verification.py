"""Check whether a backend reproduces a bundle's golden sequences on this machine, and store the result.

    verified.json   one result per checked combination of backend, SDK version, GPU, driver and engines

`auto` uses an NVIDIA backend only after this check, since its results depend on a driver, a GPU and an SDK that the
export did not check. Ties count as equal, as in the parity gate: if the margin between the checkpoint's two best tokens
is below the recipe's `tie_margin`, FP16 may choose either. Where the tokens are equal, so must be the probabilities of
attributes, within the recipe's `log_prob_max`, and pooled features if there are any, within `pooled.py`'s tolerance.
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
from seqpar_deploy.backends.gpu.engine_files import ENGINE_JSON
from seqpar_deploy.backends.pooled import wrong_pooled
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.backends.withheld import completed, withheld_tokens
from seqpar_deploy.bundle import ENGINES, VERIFIED, Bundle
from seqpar_deploy.calibration.probabilities import attribute_probabilities, largest_changes
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.preprocess import CropBatch, batches_by_columns
from seqpar_deploy.sidecars import sidecars, write_sidecar
from seqpar_deploy.vocab import EOS

_log = logging.getLogger(__name__)

FORMAT = 1
_PASSES = 3  # of each shape, the first inference runs, the second is captured as a CUDA graph, the third replays it


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Identify the combination that a result applies to."""

    backend: str
    version: str  # of the SDK
    precision: str
    gpu: str
    compute_capability: str
    driver: int
    engines: str | None  # SHA-256 over the engines' hashes


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the result of one check. `failure` is a one-line description of the difference, or None."""

    subject: Subject
    failure: str | None


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the content of `verified.json`."""

    format: int
    bundle: str  # its digest
    results: tuple[Result, ...]


def subject_of(bundle: Bundle, spec: BackendSpec) -> Subject:
    """Return the subject of a check on this machine. Raises BackendUnavailableError if there is no SDK or no GPU."""
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
            continue  # opening the engines reports the problem
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def known_result(bundle: Bundle, subject: Subject) -> Result | None:
    """Return the stored result of an earlier check of the same subject, or None."""
    found = (result for result in _results(bundle) if result.subject == subject)
    return next(found, None)


def keep_result(bundle: Bundle, result: Result) -> None:
    """Store a result with those of the bundle, and replace one of the same subject."""
    others = (other for other in _results(bundle) if other.subject != result.subject)
    verified = Verified(format=FORMAT, bundle=bundle.digest, results=(*others, result))
    try:
        write_sidecar(bundle, VERIFIED, msgspec.json.format(msgspec.json.encode(verified)) + b"\n")
    except SeqparError as error:
        _log.warning("cannot store %s, so the check will run again: %s", VERIFIED, error)


def _results(bundle: Bundle) -> list[Result]:
    """Return the results of all readable files, the bundle folder's first."""
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
    """Compare a backend's greedy sequences of the golden crops with the checkpoint's.

    Returns:
        One line on the first difference, or None if there is none.

    Raises:
        BackendError: The backend fails.
    """
    assert isinstance(backend, GreedyBackend)
    golden = bundle.golden()
    trimmed_to = tuple(golden.get("widths", np.array([], dtype=np.int64)).tolist())
    if trimmed_to != (bundle.columns or ()):
        return f"columns of the manifest must be {list(trimmed_to)} as in the golden data, got {bundle.columns}"
    if withheld := withheld_tokens(bundle.label_set, bundle.withheld):

        def encode(crop: int) -> Any:
            return backend.encode(_crops(bundle, golden, [crop]))

        known = golden["tokens"], golden["log_probs"]
        golden["tokens"], golden["log_probs"] = completed(backend, encode, *known, withheld)
    tokens = golden["tokens"]
    size = min(len(tokens), backend.max_rows or len(tokens))
    widths = golden.get("columns", np.zeros(len(tokens), dtype=np.int64)).tolist()
    batches = batches_by_columns(widths, size)
    singles = [[widths.index(width)] for width in sorted(set(widths))]
    for batch in (*singles, *batches) * _PASSES:
        state = backend.encode(_crops(bundle, golden, batch))
        if problem := _pooled_problem(bundle, golden, batch, state):
            return problem
        output = backend.greedy(state, stop=EOS, max_steps=bundle.dimensions.capacity - 1)
        ended = [_up_to_eos(row) for row in output.next_token.tolist()]
        if problem := _problem(bundle, golden, batch, ended, output.log_probs):
            return problem
    for batch in batches:  # many tokens in one call, as in speculative decoding
        output = backend.step(backend.encode(_crops(bundle, golden, batch)), tokens[batch, :-1])
        lengths = [len(_up_to_eos(row)) for row in tokens[batch, 1:].tolist()]
        followed = [row[:length] for row, length in zip(output.next_token.tolist(), lengths, strict=True)]
        if problem := _problem(bundle, golden, batch, followed, output.log_probs):
            return f"{problem} (many tokens in one call)"
    return None


def _crops(bundle: Bundle, golden: dict[str, Any], batch: list[int]) -> CropBatch:
    """Return golden crops of one width as the bundle reads them."""
    crops: CropBatch = golden["crops"][batch]
    if not bundle.trimming:
        return crops
    return np.ascontiguousarray(bundle.trimming.trim(crops, int(golden["columns"][batch[0]])))


def _pooled_problem(bundle: Bundle, golden: dict[str, Any], batch: list[int], state: Any) -> str | None:
    """Compare pooled features, if the backend and the golden data have them."""
    pooled: Float32Array | None = getattr(state, "pooled", None)
    if pooled is None or "pooled" not in golden:
        return None
    tolerance = float(bundle.manifest["recipe"]["parity"]["log_prob_median"])
    if found := wrong_pooled(golden["pooled"][batch], pooled, tolerance):
        return f"golden crop {batch[found[0]]}: {found[1]}"
    return None


def _problem(
    bundle: Bundle, golden: dict[str, Any], batch: list[int], rows: Sequence[Sequence[int]], log_probs: Float32Array
) -> str | None:
    tolerances = bundle.manifest["recipe"]["parity"]
    tie_margin, log_prob_max = float(tolerances["tie_margin"]), float(tolerances["log_prob_max"])
    for row, (crop, tokens) in enumerate(zip(batch, rows, strict=True)):
        expected = _up_to_eos(golden["tokens"][crop, 1:].tolist())
        if not np.isfinite(log_probs[row, : len(tokens)].max(axis=-1)).all():
            return f"golden crop {crop}: log-probabilities must be finite, got NaN or infinity"
        difference = first_difference(expected, tokens, golden["log_probs"][crop])
        if difference is not None and not difference[1] < tie_margin:
            step, margin = difference
            return (
                f"golden crop {crop}, step {step}: tokens must be {expected[step : step + 3]}, got "
                f"{list(tokens[step : step + 3])} (margin {margin:.2g}, a tie is below {tie_margin:g})"
            )
        if difference is None:
            along = log_probs[row]
            if problem := _wrong_probability(bundle, expected, golden["log_probs"][crop], along, log_prob_max):
                return f"golden crop {crop}: {problem}"
    return None


def _wrong_probability(
    bundle: Bundle, tokens: Sequence[int], expected: Float32Array, got: Float32Array, log_prob_max: float
) -> str | None:
    """Compare the probabilities of attributes along a sequence, given its log-probabilities (S or more, V)."""
    wanted, found = (attribute_probabilities(tokens, rows[: len(tokens)]) for rows in (expected, got))
    wrong = np.flatnonzero(~(np.abs(found - wanted) <= largest_changes(tokens, len(wanted), log_prob_max)))
    if not len(wrong):
        return None
    first = wrong[0]
    name = bundle.label_set.attributes[first].name
    return f"probability of {name!r} must be {wanted[first]:.4f}, got {found[first]:.4f}"


def first_difference(expected: Sequence[int], got: Sequence[int], log_probs: Float32Array) -> tuple[int, float] | None:
    """Find the first step at which a sequence differs from the reference's.

    Args:
        expected: The reference's tokens.
        got: The tokens to compare.
        log_probs: The reference's log-probabilities along its own sequence, (S, V).

    Returns:
        The step, and the reference's margin there: its log-probability of its own token minus that of the other. The
            margin is infinite if one sequence ends earlier. None if the sequences are equal.
    """
    for step, (own, other) in enumerate(itertools.zip_longest(expected, got)):
        if own != other:
            either_ended = own is None or other is None
            return step, math.inf if either_ended else float(log_probs[step, own] - log_probs[step, other])
    return None


def _up_to_eos(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens
