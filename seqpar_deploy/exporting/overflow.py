"""Check that no value inside an FP16 graph is beyond FP16's range.

CPUs compute FP16 graphs in FP32 and round only the tensors that are read, so an overflow may not show in their outputs,
but makes them useless on a GPU. So this check reads every tensor.
"""

from __future__ import annotations

import numpy as np

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import ParityError
from seqpar_deploy.exporting.explain.stages import Array, StagedGraph, runs_on
from seqpar_deploy.parity.reference import Reference


def require_no_overflow(bundle: Bundle, reference: Reference) -> None:
    """Run the graphs on two crops and their whole sequences. Raises ParityError, naming the first overflowing stage."""
    d = bundle.dimensions
    # A real crop and the white one. Not more, since all tensors of six stages are in memory at a time.
    white = [crop for crop, person in enumerate(reference.people) if person.name == "white"]
    chosen = [0, *white]
    tokens = reference.tokens[chosen, :-1]
    rows = len(tokens)
    encoder, step = (StagedGraph(graph, runs_on("onnxruntime")) for graph in (bundle.encoder, bundle.decoder_step))
    crops: dict[str, Array] = {"crops": reference.crops[chosen]}
    inputs: dict[str, Array] = {
        "tokens": tokens,
        "position": np.zeros(rows, dtype=np.int64),
        "self_kv": np.zeros((2 * d.layers, rows, d.heads, d.capacity, d.head_size), dtype=np.float16),
        "cross_kv": encoder.read(crops, ["cross_kv"])["cross_kv"],
    }
    for name, graph, fed in (("encoder", encoder, crops), ("decoder_step", step, inputs)):
        beyond = graph.overflowing(fed)
        first = next((stage.name for stage in graph.stages if stage.name in beyond), None)
        if first is not None:
            raise ParityError(
                f"values overflow FP16 in the {name}, first at {first}; export with --recipe fp32, or keep this stage "
                "in float32 (exporting/precision.py); no bundle was written"
            )
