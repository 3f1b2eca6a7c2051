"""Compare two graphs of one network on the same inputs: the error of each stage, and the node at which it jumps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seqpar_deploy.errors import ExportError
from seqpar_deploy.exporting.explain.stages import Array, StagedGraph, Unit

_JUMP = 10  # a jump is at least this many times the largest error of the inputs


class Error(NamedTuple):
    """The RMS of the difference over the RMS of the reference, and the largest difference. Both may be infinite."""

    relative: float
    largest: float


class Step(NamedTuple):
    """The relative error before a unit, of all tensors that it depends on, and after it, of its outputs."""

    unit: Unit
    before: float
    after: float

    def jumps(self, noise: float) -> bool:
        return self.after > max(noise, _JUMP * self.before)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageError:
    """Hold the error of a stage's outputs, see `Error`. None if the checkpoint's graph has no such tensors."""

    part: str
    stage: str
    relative: float | None
    largest: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jump:
    """Describe the first place of a part at which the error jumps (`sudden`), or else exceeds the noise.

    `node` and `operator` are None if the stage has no error with its nodes run one by one.
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
                f"{self.part}: the error grows {change} in {self.stage}, but not with its nodes run one by one: the "
                "backend's fusion of them causes it"
            )
        if math.isinf(self.after):
            return f"{self.part}: values overflow at {self.node}; the error before it is {self.before:.1e}"
        if self.sudden:
            return f"{self.part}: the error jumps {change} at {self.node}"
        return f"{self.part}: the error grows without a jump, and exceeds the noise at {self.node}, {change}"


class Comparison:
    """Compare one graph of a bundle with the reference's. `stages` and `jumps` have the results so far.

    `noise` is the relative error that the bundle's precision causes by itself.
    """

    def __init__(self, graph: StagedGraph, reference: StagedGraph, noise: float) -> None:
        self._graph, self._reference, self._noise = graph, reference, noise
        self.stages: list[StageError] = []
        self.jumps: list[Jump] = []
        self._same = _counterparts(graph, reference)
        # A tie may be resolved either way, so outputs of ArgMax are not errors.
        self._choices = {name for node in graph.nodes if node.op_type == "ArgMax" for name in node.output}

    def compare(
        self, part: str, inputs: Mapping[str, Array], reference_inputs: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run both graphs. Returns the tensors between stages, outputs included, of the bundle and the reference."""
        stages = self._graph.stages
        got, expected, errors = self._read(stages, inputs, reference_inputs)
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
        return got, expected

    def _read(
        self, units: Sequence[Unit], inputs: Mapping[str, Array], reference_inputs: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array], dict[str, Error]]:
        """Return the units' outputs in the bundle and in the reference, and the errors of them and of the inputs."""
        names = [name for unit in units for name in unit.outputs]
        got = self._graph.read(inputs, names)
        there = dict.fromkeys(self._same[name] for name in names if name in self._same)
        expected = self._reference.read(reference_inputs, [name for name in there if name not in reference_inputs])
        errors = {
            name: _error(value, expected[self._same[name]] if name in self._same else None)
            for name, value in got.items()
            if name not in self._choices
        }
        return got, expected, errors


def _counterparts(graph: StagedGraph, reference: StagedGraph) -> dict[str, str]:
    """Map tensors of a bundle to those of the reference with the same values.

    Precisions have different casts, so the output of a cast is compared with the reference of its input.
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
            f"at least half of the bundle's {len(graph.nodes)} nodes must have the names of the checkpoint's, got "
            f"{named}, so an older version made it; export the bundle again with seqpar-export"
        )
    return same


def _steps(units: Iterable[Unit], errors: Mapping[str, Error], reached: dict[str, float]) -> list[Step]:
    """Return the units' errors in the order of computation.

    `before` is the largest error of all tensors that a unit depends on, since a mask or a sum can hide an error for a
    while. `reached` has it per tensor, and is updated.
    """
    steps = []
    for unit in units:
        before = max((reached.get(name, 0.0) for name in unit.inputs), default=0.0)
        made = {name: errors[name].relative for name in unit.outputs if name in errors}
        reached.update({name: max(before, error) for name, error in made.items()})
        steps.append(Step(unit, before, max(made.values(), default=0.0)))
    return steps


def _first_jump(steps: Sequence[Step], noise: float) -> Step | None:
    """Return the first step at which the error jumps, or else the first at which it exceeds the noise."""
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


def _error(got: Array, expected: Array | None) -> Error:
    """Return the error of a tensor: (0, 0) for finite values without a reference."""
    if not np.isfinite(got).all() or (expected is not None and got.shape != expected.shape):
        return Error(math.inf, math.inf)
    if expected is None:
        return Error(0.0, 0.0)
    return Error(relative_error(got, expected), float(np.abs(got.astype(np.float64) - expected).max(initial=0)))


def relative_error(got: Array, expected: Array) -> float:
    """Return the RMS of the difference over the RMS of the reference."""
    expected = expected.astype(np.float64)
    off, size = np.linalg.norm(got - expected), np.linalg.norm(expected)
    return float(off / size) if size else math.inf if off else 0.0
