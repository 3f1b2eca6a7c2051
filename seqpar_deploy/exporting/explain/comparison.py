"""Two graphs of one network, run on the same inputs: the error of each stage, and the node at which it jumps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seqpar_deploy.errors import ExportError
from seqpar_deploy.exporting.explain.stages import Array, StagedGraph, Unit

_JUMP = 10  # times the greatest error of all that a result is computed from


class Error(NamedTuple):
    """RMS of the difference over RMS of what is wanted, and the greatest difference; infinite where not finite."""

    relative: float
    largest: float


class Step(NamedTuple):
    """The relative error of what a unit's inputs are computed from, and of what it makes."""

    unit: Unit
    before: float
    after: float

    def jumps(self, noise: float) -> bool:
        return self.after > max(noise, _JUMP * self.before)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageError:
    """How far a stage's results are from the checkpoint's, see `Error`; None where there is nothing to compare with."""

    part: str
    stage: str
    relative: float | None
    largest: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jump:
    """The first place of a part at which the error jumps (`sudden`), or else passes the noise.

    `node` and `operator` are None when the stage's error is gone once its nodes run one by one.
    """

    part: str
    stage: str
    node: str | None
    operator: str | None
    before: float
    after: float
    sudden: bool

    def __str__(self) -> str:
        change = f"from {self.before:.1e} to {self.after:.1e}"
        if self.node is None:
            return (
                f"{self.part}: the error goes {change} in {self.stage}, but not with its nodes run one by one: the "
                "backend's fusion of them makes it"
            )
        if math.isinf(self.after):
            return f"{self.part}: values overflow at {self.node}; the error before it is {self.before:.1e}"
        if self.sudden:
            return f"{self.part}: the error jumps {change} at {self.node}"
        return f"{self.part}: the error grows without a jump, and passes the noise at {self.node}, {change}"


class Comparison:
    """One graph of a bundle beside the reference's. `stages` and `jumps` hold what `compare` has found so far.

    `noise` is the relative error of computing in the bundle's precision.
    """

    def __init__(self, graph: StagedGraph, reference: StagedGraph, noise: float) -> None:
        self._graph, self._reference, self._noise = graph, reference, noise
        self.stages: list[StageError] = []
        self.jumps: list[Jump] = []
        self._same = _counterparts(graph, reference)
        # A choice among equals may fall either way: that is no error.
        self._choices = {name for node in graph.nodes if node.op_type == "ArgMax" for name in node.output}

    def compare(
        self, part: str, inputs: Mapping[str, Array], reference_inputs: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run both; (the bundle's, the reference's) results between stages, their outputs among them."""
        stages = self._graph.stages
        got, wanted, errors = self._read(stages, inputs, reference_inputs)
        overflowing = self._graph.overflowing(inputs)
        for stage in stages:
            if stage.name in overflowing:
                errors.update(dict.fromkeys(stage.outputs, Error(math.inf, math.inf)))
        reached = {name: errors[name].relative for name in inputs}
        steps = _steps(stages, errors, reached)
        for step in steps:
            compared = [errors[name] for name in step.unit.outputs if name in self._same and name in errors]
            self.stages.append(
                StageError(
                    part=part,
                    stage=step.unit.name,
                    relative=max((error.relative for error in compared), default=None),
                    largest=max((error.largest for error in compared), default=None),
                )
            )
        if found := _first_jump(steps, self._noise):
            nodes = found.unit.each_node()
            _, _, errors = self._read(nodes, inputs, reference_inputs)
            before = {name: reached.get(name, 0.0) for name in found.unit.inputs}
            jump = _jump(part, found, _first_jump(_steps(nodes, errors, before), self._noise), self._noise)
            if jump.node is None or jump.node not in {known.node for known in self.jumps}:
                self.jumps.append(jump)
        return got, wanted

    def _read(
        self, units: Sequence[Unit], inputs: Mapping[str, Array], reference_inputs: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array], dict[str, Error]]:
        """What the units make, in the bundle and in the reference, and the errors of it and of the inputs."""
        names = [name for unit in units for name in unit.outputs]
        got = self._graph.read(inputs, names)
        there = dict.fromkeys(self._same[name] for name in names if name in self._same)
        wanted = self._reference.read(reference_inputs, [name for name in there if name not in reference_inputs])
        errors = {
            name: _error(value, wanted[self._same[name]] if name in self._same else None)
            for name, value in got.items()
            if name not in self._choices
        }
        return got, wanted, errors


def _counterparts(graph: StagedGraph, reference: StagedGraph) -> dict[str, str]:
    """Tensors of a bundle, and the reference's that hold the same values.

    Precisions differ in their casts, so what a cast gives is compared with what it was given.
    """
    same = {name: name for name in graph.tensors & reference.tensors}
    for node in graph.nodes:
        if node.op_type == "Cast":
            same.pop(node.output[0], None)
            if node.input[0] in same:
                same[node.output[0]] = same[node.input[0]]
    named = sum(name in same for node in graph.nodes for name in node.output)
    if named < len(graph.nodes) / 2:
        raise ExportError(
            f"of the bundle's {len(graph.nodes)} nodes only {named} are named as the checkpoint's are: it is of an "
            "older version; export it again with seqpar-export"
        )
    return same


def _steps(units: Iterable[Unit], errors: Mapping[str, Error], reached: dict[str, float]) -> list[Step]:
    """The units' errors, in the order of computation.

    Before is the greatest error of all that a unit's inputs are computed from: a mask or a sum can hide an error for
    a while. `reached` holds it for each tensor, and is carried on.
    """
    steps = []
    for unit in units:
        before = max((reached.get(name, 0.0) for name in unit.inputs), default=0.0)
        made = {name: errors[name].relative for name in unit.outputs if name in errors}
        reached.update({name: max(before, error) for name, error in made.items()})
        steps.append(Step(unit, before, max(made.values(), default=0.0)))
    return steps


def _first_jump(steps: Sequence[Step], noise: float) -> Step | None:
    """Where the error first jumps, or else where it passes the noise."""
    jump = next((step for step in steps if step.jumps(noise)), None)
    return jump or next((step for step in steps if step.before <= noise < step.after), None)


def _jump(part: str, stage: Step, node: Step | None, noise: float) -> Jump:
    found = node or stage
    return Jump(
        part=part,
        stage=stage.unit.name,
        node=node.unit.name if node else None,
        operator=node.unit.nodes[0].op_type if node else None,
        before=found.before,
        after=found.after,
        sudden=found.jumps(noise),
    )


def _error(got: Array, wanted: Array | None) -> Error:
    """(0, 0) for finite values that nothing is known of."""
    if not np.isfinite(got).all() or (wanted is not None and got.shape != wanted.shape):
        return Error(math.inf, math.inf)
    if wanted is None:
        return Error(0.0, 0.0)
    return Error(relative_error(got, wanted), float(np.abs(got.astype(np.float64) - wanted).max(initial=0)))


def relative_error(got: Array, wanted: Array) -> float:
    """RMS of the difference over RMS of what is wanted."""
    wanted = wanted.astype(np.float64)
    off, size = np.linalg.norm(got - wanted), np.linalg.norm(wanted)
    return float(off / size) if size else math.inf if off else 0.0
