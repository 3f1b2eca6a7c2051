"""Check that no value inside an FP16 graph is beyond FP16's range.

CPUs compute FP16 graphs in FP32 and round only the tensors that are read, so an overflow may not show in their outputs,
but makes them useless on a GPU. So this check reads every tensor.
"""

from __future__ import annotations

import numpy as np

from seqpar_deploy.bundle import Bundle, Dimensions
from seqpar_deploy.errors import ParityError
from seqpar_deploy.exporting.explain.stages import Array, StagedGraph, runs_on
from seqpar_deploy.parity.reference import Reference


def require_no_overflow(bundle: Bundle, reference: Reference) -> None:
    """Run the graphs on a few crops and their whole sequences.

    These are a real crop, the white one, and one of each other width. Not more, since all tensors of six stages are in
    memory at a time. Raises ParityError, naming the first overflowing stage.
    """
    white = [crop for crop, person in enumerate(reference.people) if person.name == "white"]
    chosen = dict.fromkeys([0, *white])
    known = {reference.widths[crop] for crop in chosen}
    chosen |= dict.fromkeys(reference.widths.index(width) for width in sorted(set(reference.widths) - known))
    encoder, step = (StagedGraph(graph, runs_on("onnxruntime")) for graph in (bundle.encoder, bundle.decoder_step))
    for crops in reference.batches(list(chosen), len(chosen)):
        _require_no_overflow(bundle.dimensions, reference, crops, encoder, step)


def _require_no_overflow(
    d: Dimensions, reference: Reference, chosen: list[int], encoder: StagedGraph, step: StagedGraph
) -> None:
    """Check crops of one width in a batch."""
    tokens = reference.tokens[chosen, :-1]
    rows = len(tokens)
    crops: dict[str, Array] = {"crops": reference.prepared(chosen)}
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
