"""The backend `openvino`: OpenVINO on the CPU."""

from __future__ import annotations

from seqpar_deploy import machine
from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.backends.host import SessionBackend, copies_cache, host_graphs_for
from seqpar_deploy.backends.sessions import OPENVINO_OVERFLOWS, OpenVinoSession, import_openvino, openvino_core
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.bundle import Bundle


def supports_bf16() -> bool:
    """Return whether OpenVINO has bf16 kernels for this processor."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _why_not(compute_precision: ComputePrecision) -> str | None:
    if compute_precision == "bf16" and not supports_bf16():
        return "bf16 needs a CPU with bfloat16 instructions, which this one lacks; use native or int8"
    if compute_precision == "int8" and machine.lacks_vnni():
        return OPENVINO_OVERFLOWS
    return None


def _open(bundle: Bundle, threads: int | None, compute_precision: ComputePrecision) -> SessionBackend:
    graphs = host_graphs_for(bundle, compute_precision)
    encoder, step = (OpenVinoSession(graph, threads=threads, compute_precision=compute_precision) for graph in graphs)
    copies = copies_cache(graphs[1])
    return SessionBackend(bundle, name=SPEC.name, encoder=encoder, decoder_step=step, copies_cache=copies)


SPEC = BackendSpec(
    name="openvino",
    device="cpu",
    extra="openvino",
    load_sdk=import_openvino,
    open=_open,
    open_session=OpenVinoSession,
    compute_precisions=("native", "bf16", "int8"),
    why_not=_why_not,
)
