"""The backend `onnxruntime`: ONNX Runtime on the CPU."""

from __future__ import annotations

from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.backends.host import SessionBackend, copies_cache, host_graphs_for
from seqpar_deploy.backends.sessions import Graph, OnnxRuntimeSession, import_onnxruntime
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.bundle import Bundle


def open_session(
    graph: Graph, *, threads: int | None = None, compute_precision: ComputePrecision = "native"
) -> OnnxRuntimeSession:
    """Open a graph in its own precision. Raises BackendUnavailableError, BackendError."""
    return OnnxRuntimeSession(graph, threads=threads)


def _open(bundle: Bundle, threads: int | None, compute_precision: ComputePrecision) -> SessionBackend:
    graphs = host_graphs_for(bundle, compute_precision)
    encoder, step = (open_session(graph, threads=threads) for graph in graphs)
    copies = copies_cache(graphs[1])
    return SessionBackend(bundle, name=SPEC.name, encoder=encoder, decoder_step=step, copies_cache=copies)


SPEC = BackendSpec(
    name="onnxruntime",
    device="cpu",
    extra="cpu",
    load_sdk=import_onnxruntime,
    open=_open,
    open_session=open_session,
    compute_precisions=("native", "int8"),  # it has no bf16 kernels for CPUs
)
