"""The parity gate's report: made by `gate.py`, kept in a bundle's manifest, shown by the commands."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from seqpar_deploy.errors import ParityError
from seqpar_deploy.parity.tolerances import ParityTolerances

Status = Literal["passed", "failed", "skipped"]

NOTHING = -1  # in place of a token, where a sequence has ended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first token at which a bundle leaves its checkpoint: `margin` is by how much the checkpoint preferred its own
    choice to the bundle's, as a log-probability; `tie` when that is within numerical noise."""

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
            f"crop {self.crop} leaves the checkpoint at step {self.step}: token {self.got}, wanted {self.wanted} "
            f"by a margin of {self.margin:.3g}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One check. `detail` says what was found, what is wrong and where, or why the check was skipped."""

    name: str
    status: Status
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How a bundle compares with its checkpoint. Differences are absolute, of log-probabilities.

    `scores` are of labelled people, the checkpoint's (`wanted`) and the bundle's (`got`), where there were any.
    """

    backend: str
    reference: str  # "checkpoint" or "golden data"
    crops: int
    kinds: dict[str, int]
    identical: int
    identical_sets: int
    divergences: tuple[Divergence, ...]
    log_prob_median: float
    log_prob_p99: float
    log_prob_max: float
    checks: tuple[Check, ...]
    scores: dict[str, Any] | None = None
    tolerances: ParityTolerances

    @property
    def ties(self) -> int:
        return sum(divergence.tie for divergence in self.divergences)

    @property
    def breaches(self) -> list[str]:
        """What is beyond the tolerances and where, the most fundamental first; empty when the bundle passes."""
        return [f"{check.name}: {check.detail}" for check in self.checks if check.status == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest or a JSON file."""
        values = dataclasses.asdict(self)
        return {"passed": not self.breaches, "ties": self.ties, "breaches": self.breaches, **values}

    def require(self, consequence: str) -> ParityReport:
        """Raise ParityError, naming the first breach and the consequence, unless the bundle passes."""
        if breaches := self.breaches:
            more = f" (and {len(breaches) - 1} more)" if len(breaches) > 1 else ""
            raise ParityError(
                f"the bundle does not reproduce the checkpoint on {self.backend}: {breaches[0]}{more}; {consequence}"
            )
        return self
