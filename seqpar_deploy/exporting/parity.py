"""Does a bundle say what its checkpoint says? Whole generations are compared, tokens before tolerances.

The checkpoint runs eagerly, in float32 and without a cache. Its greedy sequences are the reference: the bundle must
generate the same tokens step by step through its cache, and give the same log-probabilities when it reads the
reference sequences in one call of many tokens. Together these exercise every input of the decoder step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import Backend, Float32Array, Int64Array
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.errors import ParityError
from seqpar_deploy.exporting.recipe import ParityTolerances
from seqpar_deploy.vocab import BOS, EOS, PAD

Progress = Callable[[int, int], None]  # (crops done, crops in all)

BATCH = 4  # crops at a time: the reference keeps no cache, and a full-size batch is to stay small in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The checkpoint's own answers: greedy sequences of prepared crops, from `<bos>` on.

    `crops` uint8 (G, H, W, 3); `tokens` int64 (G, C), right-padded; `log_probs` float32 (G, C - 1, V), what follows
    each token but the last. Only the first `lengths[g]` of these belong to crop g's sequence.
    """

    crops: npt.NDArray[np.uint8]
    tokens: Int64Array
    log_probs: Float32Array

    @property
    def lengths(self) -> Int64Array:
        """Tokens generated for each crop, `<eos>` included (G,)."""
        ended = np.cumsum(self.tokens[:, 1:] == EOS, axis=1) - (self.tokens[:, 1:] == EOS)
        return np.asarray(np.count_nonzero(ended == 0, axis=1), dtype=np.int64)

    def first(self, crops: int) -> Reference:
        return Reference(crops=self.crops[:crops], tokens=self.tokens[:crops], log_probs=self.log_probs[:crops])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first token at which a bundle leaves its checkpoint: `margin` is how much better the checkpoint's choice
    was than the next best, as a log-probability; `tie` when that is within numerical noise."""

    crop: int
    step: int
    wanted: int
    got: int
    margin: float
    tie: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How a bundle compares with its checkpoint. Differences are absolute, of log-probabilities."""

    backend: str
    crops: int
    identical: int
    divergences: tuple[Divergence, ...]
    log_prob_median: float
    log_prob_p99: float
    log_prob_max: float
    tolerances: ParityTolerances

    @property
    def breaches(self) -> list[str]:
        """What is beyond the tolerances, in words; empty when the bundle passes."""
        tolerances, found = self.tolerances, []
        for divergence in self.divergences:
            if not divergence.tie:
                found.append(
                    f"crop {divergence.crop} leaves the checkpoint at step {divergence.step}: token {divergence.got}, "
                    f"wanted {divergence.wanted} by a margin of {divergence.margin:.3g}"
                )
        for name in ("log_prob_median", "log_prob_max"):
            got, wanted = getattr(self, name), getattr(tolerances, name)
            if not got <= wanted:  # NaN is a breach too
                found.append(f"{name} differs by {got:.3g}, wanted at most {wanted:.3g}")
        return found

    def to_dict(self) -> dict[str, Any]:
        return {"passed": not self.breaches, **dataclasses.asdict(self)}

    def require(self) -> ParityReport:
        """Raise ParityError, naming the first breach, unless the bundle passes."""
        if breaches := self.breaches:
            more = f" (and {len(breaches) - 1} more)" if len(breaches) > 1 else ""
            raise ParityError(
                f"the bundle does not reproduce the checkpoint on {self.backend}: {breaches[0]}{more}; "
                "nothing was written"
            )
        return self


def reference_generations(
    backend: Backend[Any],
    crops: npt.NDArray[np.uint8],
    *,
    max_steps: int,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> Reference:
    """Greedy sequences and their log-probabilities from an eager backend."""
    tokens = np.full((len(crops), max_steps + 1), PAD, dtype=np.int64)
    tokens[:, 0] = BOS
    log_probs = []
    for start in range(0, len(crops), batch_size):
        batch = crops[start : start + batch_size]
        state = backend.encode(batch)
        for row, generation in enumerate(Greedy().generate(backend, state, max_steps=max_steps)):
            tokens[start + row, 1 : 1 + len(generation.tokens)] = generation.tokens
        log_probs.append(backend.step(backend.encode(batch), tokens[start : start + len(batch), :-1]).log_probs)
        if progress:
            progress(start + len(batch), len(crops))
    return Reference(crops=crops, tokens=tokens, log_probs=np.concatenate(log_probs))


def check_parity(
    backend: Backend[Any],
    reference: Reference,
    tolerances: ParityTolerances,
    *,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> ParityReport:
    """Run a bundle's backend over the reference's crops and compare. Does not raise on a breach: see `require`."""
    max_steps = reference.tokens.shape[1] - 1
    lengths = reference.lengths
    generated: list[Sequence[int]] = []
    differences = []
    for start in range(0, len(reference.crops), batch_size):
        batch = reference.crops[start : start + batch_size]
        state = backend.encode(batch)
        teacher = reference.tokens[start : start + len(batch), :-1]
        log_probs = backend.step(state, teacher).log_probs
        state.truncate(np.zeros(len(batch), dtype=np.int64))
        generated.extend(g.tokens for g in Greedy().generate(backend, state, max_steps=max_steps))
        for row in range(len(batch)):
            crop = start + row
            wanted = reference.log_probs[crop, : lengths[crop]]
            differences.append(np.abs(log_probs[row, : lengths[crop]] - wanted).ravel())
        if progress:
            progress(start + len(batch), len(reference.crops))
    divergences = tuple(
        found
        for crop, tokens in enumerate(generated)
        if (found := _first_divergence(reference, crop, tokens, tolerances.tie_margin))
    )
    all_differences = np.concatenate(differences)
    return ParityReport(
        backend=backend.name,
        crops=len(reference.crops),
        identical=len(reference.crops) - len(divergences),
        divergences=divergences,
        log_prob_median=float(np.median(all_differences)),
        log_prob_p99=float(np.quantile(all_differences, 0.99)),
        log_prob_max=float(np.max(all_differences)),
        tolerances=tolerances,
    )


def _first_divergence(reference: Reference, crop: int, got: Sequence[int], tie_margin: float) -> Divergence | None:
    wanted = reference.tokens[crop, 1 : 1 + reference.lengths[crop]].tolist()
    step = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), None)
    if step is None:
        return None  # both end at `<eos>` or at the same limit, so equal as far as the shorter means equal
    best, second = np.sort(reference.log_probs[crop, step])[:-3:-1]
    margin = float(best - second)
    return Divergence(crop=crop, step=step, wanted=wanted[step], got=got[step], margin=margin, tie=margin < tie_margin)
