"""Run one ONNX graph on one lane, with an execution context per input shape, and CUDA graphs of repeated inferences.

A CUDA graph contains addresses, shapes and the state of the context it was captured from. So an execution context is
used for one set of input shapes, and its CUDA graphs are freed with it (NVIDIA's advice: NVIDIA/TensorRT#3798).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from seqpar_deploy.backends.gpu.cuda import Address, Cuda
from seqpar_deploy.backends.gpu.lanes import Lane, Turn
from seqpar_deploy.errors import BackendError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Addresses = Mapping[str, Address]

_log = logging.getLogger(__name__)

# Contexts per engine and width of crops, and CUDA graphs per context. The least recently used is dropped. Batches of 1
# to 64 rows have 20 sizes, see decode.padded_rows.
MOST_CONTEXTS, MOST_GRAPHS = 64, 16
_MOST_ATTEMPTS = 3  # captures per inference


class Context(Protocol):
    """Run one ONNX graph in one SDK, for one set of input shapes."""

    def enqueue(self, addresses: Addresses, turn: Turn) -> None:
        """Enqueue one inference between device addresses. Raises BackendError."""
        ...

    def close(self) -> None:
        """Release the SDK's objects. The lane must be idle. Safe to call twice."""
        ...


class Executor(Protocol):
    """Run one ONNX graph in one SDK."""

    captures_by_itself: bool  # whether the SDK captures CUDA graphs, one per context

    def context(self, profile: int, shapes: Shapes, turn: Turn) -> Context:
        """Create a context for these input shapes. Raises BackendError."""
        ...

    def close(self) -> None:
        """Release the SDK's objects. The lane must be idle. Safe to call twice."""
        ...


@dataclasses.dataclass
class _Inference:
    """Hold a seen inference: its CUDA graph once captured, and the number of failed captures."""

    graph: Any = None
    failures: int = 0


@dataclasses.dataclass
class _Held:
    context: Context
    inferences: collections.OrderedDict[Any, _Inference]


class Engine:
    """Run one ONNX graph in turns on its lane."""

    def __init__(self, executor: Executor, cuda: Cuda, *, name: str, lane: Lane, graphs: bool, widths: int = 1) -> None:
        """With `graphs`, inferences are captured as CUDA graphs, unless the SDK captures them itself.

        `widths`: the number of widths that crops are trimmed to. Each multiplies the sets of input shapes.
        """
        self.lane = lane
        self._executor, self._cuda, self._name = executor, cuda, name
        self._capture = graphs and not executor.captures_by_itself
        self._warned = False
        self._most_contexts = MOST_CONTEXTS * widths
        self._contexts: collections.OrderedDict[Any, _Held] = collections.OrderedDict()

    def run(self, turn: Turn, profile: int, shapes: Shapes, addresses: Addresses) -> None:
        """Enqueue one inference. The second with the same addresses is captured, later ones are replayed.

        Raises BackendError.
        """
        assert turn.lane is self.lane
        held = self._held(turn, profile, shapes, addresses)
        if not self._capture:
            held.context.enqueue(addresses, turn)
            return
        key = tuple(addresses.items())
        inference = held.inferences.get(key)
        if inference is not None and inference.graph is not None:
            turn.launch(inference.graph)
        else:
            held.context.enqueue(addresses, turn)
            if inference is None:
                held.inferences[key] = _Inference()
            elif inference.failures < _MOST_ATTEMPTS:
                self._try_to_capture(inference, held.context, addresses, turn)
        held.inferences.move_to_end(key)
        if len(held.inferences) > MOST_GRAPHS:
            _, oldest = held.inferences.popitem(last=False)
            turn.synchronise()  # the graph may be running
            self._free(oldest)

    def _held(self, turn: Turn, profile: int, shapes: Shapes, addresses: Addresses) -> _Held:
        key: tuple[Any, ...] = (profile, tuple(shapes.items()))
        if self._executor.captures_by_itself:  # such an SDK recaptures if addresses change, as they do at each step
            key += tuple(addresses.items())
        held = self._contexts.get(key)
        if held is None:
            if len(self._contexts) >= self._most_contexts:
                turn.synchronise()
                self._close(self._contexts.popitem(last=False)[1])
            held = _Held(self._executor.context(profile, shapes, turn), collections.OrderedDict())
            self._contexts[key] = held
        self._contexts.move_to_end(key)
        return held

    def _try_to_capture(self, inference: _Inference, context: Context, addresses: Addresses, turn: Turn) -> None:
        """Capture the inference that was just enqueued: the SDK has then finished its setup for new shapes."""
        turn.synchronise()
        try:
            with turn.capturing() as graphs:
                context.enqueue(addresses, turn)
        except BackendError as error:
            inference.failures += 1
            _log.log(
                logging.DEBUG if self._warned else logging.WARNING,
                "running the %s engine without a CUDA graph, which is slower: %s",
                self._name,
                error,
            )
            self._warned = True
            return
        inference.graph = graphs[0]

    def _free(self, inference: _Inference) -> None:
        if inference.graph is not None:
            with contextlib.suppress(BackendError):  # fails if the CUDA context is corrupt: release the rest anyway
                self._cuda.free_graph(inference.graph)

    def _close(self, held: _Held) -> None:
        for inference in held.inferences.values():
            self._free(inference)
        held.context.close()

    def close(self) -> None:
        """Release CUDA graphs, contexts and the SDK's objects. The lane must be idle. Safe to call twice."""
        for held in self._contexts.values():
            self._close(held)
        self._contexts.clear()
        self._executor.close()
