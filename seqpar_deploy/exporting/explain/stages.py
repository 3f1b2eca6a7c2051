"""Split a bundle's graph into stages, and read the tensors inside it.

Nodes are named after their modules (see graphs.py), so stages are found by name: each numbered module, for example
`decoder.layers.0`, is a stage, and so are the nodes between two of them.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from seqpar_deploy.backends import BackendName, ComputePrecision
from seqpar_deploy.backends.registry import open_session
from seqpar_deploy.files import temporary_folder
from seqpar_deploy.onnx_file import external_data_locations

Array = npt.NDArray[Any]
Run = Callable[[Path, Mapping[str, Array], Sequence[str]], list[Array]]  # (graph, inputs, names) -> outputs

# These operators move or select values without arithmetic. Between two stages, they belong to the first.
_MOVES = {
    *("ArgMax", "Cast", "Concat", "Expand", "Gather", "Identity"),
    *("Reshape", "Shape", "Squeeze", "Transpose", "Unsqueeze"),
}
_STAGES_AT_ONCE = 6  # for ViT-L/14 in FP16, their tensors take 130 MB per crop
_NUMBERED_MODULE = re.compile(r".*?\.\d+(?=[./])")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """Describe a stage or a node of a graph, with the tensors it reads from other units, and those that others read."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]

    def each_node(self) -> list[Unit]:
        """Return one unit per node."""
        return [
            Unit(name=node.name, inputs=tuple(node.input), outputs=tuple(node.output), nodes=(node,))
            for node in self.nodes
        ]


class StagedGraph:
    """Hold one graph in topological order. Weights are loaded when `read` runs it."""

    def __init__(self, path: Path, run: Run) -> None:
        self._path, self._run = path, run
        self._model = onnx.load(path, load_external_data=False)
        self.nodes = tuple(self._model.graph.node)
        self.stages = _stages(self._model.graph)
        self._dtypes = {
            value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            for value in self._model.graph.input
        }

    @property
    def tensors(self) -> set[str]:
        """Names of its inputs and of all outputs of its nodes."""
        return {*self._dtypes, *(name for node in self.nodes for name in node.output)}

    def read(self, inputs: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
        """Run the graph, and return its inputs, cast to its types, and these of its tensors.

        A tensor that is read keeps the runtime from fusing nodes across it.
        """
        cast = self._cast(inputs)
        return {**cast, **self._run_nodes(self.nodes, cast, tensors)}

    def overflowing(self, inputs: Mapping[str, Array]) -> set[str]:
        """Return the stages of an FP16 graph with values beyond FP16's range: the first, and perhaps some after it.

        CPUs compute FP16 in FP32 and round only the tensors that are read, so such a value may not show in the outputs,
        but makes them useless on a GPU. So all tensors are read, a few stages at a time.
        """
        if not any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in self._model.graph.initializer):
            return set()
        found: set[str] = set()
        known = self._cast(inputs)
        for start in range(0, len(self.stages), _STAGES_AT_ONCE):
            stages = self.stages[start : start + _STAGES_AT_ONCE]
            nodes = [node for stage in stages for node in stage.nodes]
            values = self._run_nodes(nodes, known, [name for node in nodes for name in node.output])
            beyond = {name for name, value in values.items() if not np.isfinite(value).all()}
            found |= {stage.name for stage in stages for node in stage.nodes if beyond & {*node.output}}
            if found:  # later stages compute with infinities
                break
            known |= {name: values[name] for stage in stages for name in stage.outputs}
        return found

    def _cast(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: inputs[name].astype(dtype, copy=False) for name, dtype in self._dtypes.items()}

    def _run_nodes(
        self, nodes: Sequence[onnx.NodeProto], known: Mapping[str, Array], tensors: Sequence[str]
    ) -> dict[str, Array]:
        """Run nodes on the tensors `known`, and return these of their outputs."""
        read = {name for node in nodes for name in node.input}
        inputs = {name: value for name, value in known.items() if name in read}
        with temporary_folder() as folder:
            values = self._run(self._part(nodes, inputs, tensors, folder), inputs, tensors)
        return dict(zip(tensors, values, strict=True))

    def _part(
        self, nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Array], outputs: Sequence[str], folder: Path
    ) -> Path:
        """Write a graph of these nodes to a folder, with links to the weights, which runtimes require beside it."""
        whole = self._model.graph
        infos = {value.name: value for value in (*whole.value_info, *whole.input, *whole.output)}
        read = {name for node in nodes for name in node.input}
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for field in ("node", "input", "output", "initializer"):
            model.graph.ClearField(field)
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(weight for weight in whole.initializer if weight.name in read)
        model.graph.input.extend(infos.get(name) or _info(name, value) for name, value in inputs.items())
        model.graph.output.extend(infos.get(name) or onnx.ValueInfoProto(name=name) for name in outputs)
        for location in external_data_locations(self._path):
            try:
                os.link(self._path.parent / location, folder / location)
            except OSError:  # another file system
                shutil.copyfile(self._path.parent / location, folder / location)
        path = folder / self._path.name
        path.write_bytes(model.SerializeToString())
        return path


def _info(name: str, value: Array) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), None)


def runs_on(backend: BackendName, compute_precision: ComputePrecision = "native") -> Run:
    """Return a function that runs graphs in a backend's runtime."""

    def run(graph: Path, inputs: Mapping[str, Array], tensors: Sequence[str]) -> list[Array]:
        session = open_session(graph, backend, compute_precision=compute_precision)
        return list(session.run(inputs, tensors).values())

    return run


def _stages(graph: onnx.GraphProto) -> list[Unit]:
    runs: list[tuple[str, list[onnx.NodeProto]]] = []
    for node in graph.node:
        numbered = _NUMBERED_MODULE.match(node.name)
        scope = numbered[0] if numbered else node.name.rpartition("/")[0]
        joins = runs and (scope == runs[-1][0] or node.op_type in _MOVES or not node.name)
        if not joins:
            runs.append((scope, []))
        runs[-1][1].append(node)
    made_in = {name: stage for stage, (_, nodes) in enumerate(runs) for node in nodes for name in node.output}
    read_in: dict[str, set[int]] = {value.name: {len(runs)} for value in graph.output}
    for stage, (_, nodes) in enumerate(runs):
        for node in nodes:
            for name in node.input:
                read_in.setdefault(name, set()).add(stage)
    fixed = {value.name for value in graph.initializer}
    return [
        Unit(
            name=_stage_name(nodes),
            inputs=tuple(
                dict.fromkeys(n for node in nodes for n in node.input if n not in fixed and made_in.get(n) != stage)
            ),
            outputs=tuple(n for node in nodes for n in node.output if read_in.get(n, set()) - {stage}),
            nodes=tuple(nodes),
        )
        for stage, (_, nodes) in enumerate(runs)
    ]


def _stage_name(nodes: Sequence[onnx.NodeProto]) -> str:
    """Return the numbered module, or else the last node with arithmetic."""
    if numbered := _NUMBERED_MODULE.match(nodes[0].name):
        return numbered[0]
    return next((node.name for node in reversed(nodes) if node.op_type not in _MOVES), nodes[-1].name)
