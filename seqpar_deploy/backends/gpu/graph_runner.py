"""One graph on one stream of the GPU, and CUDA graphs of what it did before. An SDK's `Executor` does the work."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from seqpar_deploy.backends.gpu.cuda import Address, Cuda
from seqpar_deploy.errors import BackendError

Shape = tuple[int, ...]

_log = logging.getLogger(__name__)

_MOST_GRAPHS = 64  # of one engine; the least recently used goes


class Executor(Protocol):
    """One graph in one SDK."""

    def enqueue(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, Address], stream: Any) -> None:
        """Enqueue one inference of inputs of these shapes, between device addresses. Raises BackendError."""
        ...

    def close(self) -> None:
        """Let go of what the SDK holds, while the device is idle. Safe to call twice."""
        ...


class Engine:
    """Runs one graph. Whoever enqueues on its stream holds `lock`: what is captured must be this engine's alone."""

    def __init__(self, executor: Executor, cuda: Cuda, *, name: str, stream: Any, graphs: bool) -> None:
        self.stream = stream
        self.lock = threading.RLock()
        self._executor, self._cuda, self._name = executor, cuda, name
        self._capture = graphs
        # By everything that is frozen into a graph; None where that has run once and is not yet captured.
        self._graphs: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    def run(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, Address]) -> None:
        """Enqueue one inference. The second of a kind is captured, later ones are replayed. Raises BackendError."""
        if not self._capture:
            self._executor.enqueue(profile, shapes, addresses, self.stream)
            return
        key = (profile, tuple(shapes.items()), tuple(addresses.items()))
        graph = self._graphs.get(key)
        if graph is not None:
            self._cuda.launch(graph, self.stream)
        else:
            self._executor.enqueue(profile, shapes, addresses, self.stream)
            self._graphs[key] = self._captured(profile, shapes, addresses) if key in self._graphs else None
        self._graphs.move_to_end(key)
        if len(self._graphs) > _MOST_GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                self._cuda.synchronise(self.stream)  # it may be running
                self._cuda.forget(oldest)

    def _captured(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, Address]) -> Any:
        """The same inference as a graph, right after it ran: what a change of shape defers has been done then."""
        try:
            with self._cuda.capturing(self.stream) as graphs:
                self._executor.enqueue(profile, shapes, addresses, self.stream)
        except BackendError as error:
            self._capture = False
            _log.warning("the %s engine runs without CUDA graphs: %s", self._name, error)
            return None
        return graphs[0]

    def close(self) -> None:
        """Let go of graphs and of what the SDK holds, while the device is idle. Safe to call twice."""
        for graph in self._graphs.values():
            if graph is not None:
                self._cuda.forget(graph)
        self._graphs.clear()
        self._executor.close()
