"""The report of the parity gate. `gate.py` makes it, the export stores it in the manifest, and commands print it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from seqpar_deploy.errors import ParityError
from seqpar_deploy.parity.tolerances import ParityTolerances

Status = Literal["passed", "failed", "skipped"]

NOTHING = -1  # in place of a token, after the end of a sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """Describe the first token at which a bundle's sequence differs from its checkpoint's.

    Attributes:
        crop: Index of the crop.
        name: Name of the crop.
        step: The decoder step, from 0.
        wanted: The checkpoint's token, or -1 if its sequence has ended.
        got: The bundle's token, or -1 if its sequence has ended.
        margin: The checkpoint's log-probability of its own token minus that of the bundle's token.
        tie: Whether the margin is below the recipe's `tie_margin`.
        wanted_attributes: The checkpoint's attributes.
        got_attributes: The bundle's attributes.
    """

    crop: int
    name: str
    step: int
    wanted: int
    got: int
    margin: float
    tie: bool
    wanted_attributes: list[str]
    got_attributes: list[str]

    def __str__(self) -> str:
        return (
            f"crop {self.crop}, step {self.step}: token must be {self.wanted} as in the checkpoint, got {self.got} "
            f"(margin {self.margin:.3g})"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """Hold the result of one check. `detail` is the finding, the fault, or the reason to skip the check."""

    name: str
    status: Status
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Hold the comparison of a bundle with its checkpoint.

    Attributes:
        backend: Name of the backend.
        reference: `checkpoint` or `golden data`.
        crops: Number of crops.
        kinds: Number of crops per kind: real, rendered, adversarial.
        identical: Crops with the checkpoint's greedy tokens.
        identical_sets: Crops with the checkpoint's set of attributes.
        divergences: The first differing token of each other crop, ties included.
        log_prob_median: Median absolute difference of log-probabilities.
        log_prob_p99: 99th percentile of those differences.
        log_prob_max: Maximum of those differences.
        probability_max: Largest difference of an attribute's probability, in sequences with the checkpoint's tokens.
            Default: None, for a report of an older version, or if there is no such sequence.
        pooled_max: Largest relative error of pooled features, see `backends.pooled`. Default: None, the reference or
            the backend has none.
        checks: All checks, the most fundamental first.
        scores: Scores on labelled people, of the checkpoint (`wanted`) and of the bundle (`got`). Default: None.
        tolerances: The tolerances that were applied.
    """

    backend: str
    reference: str
    crops: int
    kinds: dict[str, int]
    identical: int
    identical_sets: int
    divergences: tuple[Divergence, ...]
    log_prob_median: float
    log_prob_p99: float
    log_prob_max: float
    checks: tuple[Check, ...]
    probability_max: float | None = None
    pooled_max: float | None = None
    scores: dict[str, Any] | None = None
    tolerances: ParityTolerances

    @property
    def ties(self) -> int:
        """The number of divergences that are ties."""
        return sum(divergence.tie for divergence in self.divergences)

    @property
    def breaches(self) -> list[str]:
        """One line per failed check, the most fundamental first. Empty if the bundle passes."""
        return [f"{check.name}: {check.detail}" for check in self.checks if check.status == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for a manifest or a JSON file."""
        values = dataclasses.asdict(self)
        return {"passed": not self.breaches, "ties": self.ties, "breaches": self.breaches, **values}

    def without_tokens(self) -> ParityReport:
        """Return the report without the tokens and attributes of the divergences, for bundles that withhold some."""
        divergences = tuple(
            dataclasses.replace(one, wanted=NOTHING, got=NOTHING, wanted_attributes=[], got_attributes=[])
            for one in self.divergences
        )
        return dataclasses.replace(self, divergences=divergences)

    def require(self, consequence: str) -> ParityReport:
        """Return the report if the bundle passes.

        Args:
            consequence: The end of the error message, for example "do not use it".

        Returns:
            This report.

        Raises:
            ParityError: A check failed. The message has the first breach and the consequence.
        """
        if breaches := self.breaches:
            more = f" (and {len(breaches) - 1} more)" if len(breaches) > 1 else ""
            raise ParityError(
                f"the bundle does not reproduce the checkpoint on {self.backend}: {breaches[0]}{more}; {consequence}"
            )
        return self
