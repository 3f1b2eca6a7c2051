"""Find the first stage and the first node at which a bundle's outputs differ from its checkpoint's.

The checkpoint is exported again in FP32, and both graphs run on the same crops and tokens. First the outputs of every
stage are compared, then those of every node in the first stage with a jump of the error. Faults outside the graphs
(preprocessing, decoding, cache handling) are not found: then the graphs agree, and the conclusion reports that. A fault
must be at least ten times as large as the precision's own error to be found.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seqpar_deploy.backends import BackendName, ComputePrecision
from seqpar_deploy.backends.base import Int64Array
from seqpar_deploy.backends.host import graphs_for
from seqpar_deploy.bundle import DECODER_STEP, ENCODER, Bundle, Dimensions
from seqpar_deploy.errors import ExportError
from seqpar_deploy.exporting.explain.comparison import Comparison, Jump, StageError, relative_error
from seqpar_deploy.exporting.explain.stages import Array, StagedGraph, runs_on
from seqpar_deploy.exporting.graphs import DecoderStepGraph, EncoderGraph, export_graph, graph_specs, uint8_to_images
from seqpar_deploy.files import finite, temporary_folder
from seqpar_deploy.modeling.eager import EagerBackend
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.progress import Progress, silent
from seqpar_deploy.vocab import PAD

# Relative error that each precision causes over a whole network.
NOISE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 2e-1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Hold the comparison of a bundle's graphs with its checkpoint's, on one backend.

    Attributes:
        backend: Name of the backend.
        compute_precision: Precision of the comparison.
        noise: Relative error that the precision causes by itself.
        export_error: Largest relative error of the FP32 graphs' outputs, compared with PyTorch's.
        stages: The error of each stage.
        jumps: At most one place per part, in the order of computation.
    """

    backend: BackendName
    compute_precision: ComputePrecision
    noise: float
    export_error: float
    stages: tuple[StageError, ...]
    jumps: tuple[Jump, ...]

    @property
    def conclusion(self) -> str:
        """One line per place found, or one that the graphs agree."""
        lines = [str(jump) for jump in self.jumps]
        if not self.export_error <= NOISE["fp32"]:
            lines.insert(
                0, f"the FP32 export differs from PyTorch by {self.export_error:.1e}: the exporter is at fault"
            )
        return "\n".join(lines) or (
            f"the graphs agree within noise on {self.backend} (relative error at most "
            f"{max((s.relative or 0 for s in self.stages), default=0):.1e}, noise up to {self.noise:.0e}): the "
            "difference is caused by another backend, by preprocessing or by decoding"
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON. NaN and infinity become None."""
        return {"conclusion": self.conclusion, **finite(dataclasses.asdict(self))}

    def format(self) -> str:
        """Format a table of the stages, and the conclusion."""
        width = max(len(name) for stage in self.stages for name in (stage.part, f"  {stage.stage}"))
        lines = []
        for part, stages in itertools.groupby(self.stages, key=lambda stage: stage.part):
            lines.append(f"{part:{width}}  relative error  largest difference")
            for stage in stages:
                relative, largest = ("-" if v is None else f"{v:.1e}" for v in (stage.relative, stage.largest))
                lines.append(f"{f'  {stage.stage}':{width}}  {relative:>14}  {largest:>18}")
        return "\n".join([*lines, "", self.conclusion])


def explain(
    bundle: Bundle,
    model: SequencePAR,
    token_table: torch.Tensor,
    crops: npt.NDArray[np.uint8],
    tokens: Int64Array,
    *,
    backend: BackendName = "onnxruntime",
    compute_precision: ComputePrecision = "native",
    progress: Progress = silent,
) -> Explanation:
    """Compare a bundle's graphs on a backend with those of its checkpoint, in FP32 on ONNX Runtime.

    Args:
        bundle: The opened bundle.
        model: The checkpoint's network in float32.
        token_table: Its token table (V, d) in float32.
        crops: A few prepared crops, uint8 (B, H, W, 3), trimmed to one width if the bundle trims.
        tokens: The checkpoint's greedy sequences of them, int64 (B, C), right-padded, starting with `<bos>`.
        backend: Name of the backend. Default: `onnxruntime`.
        compute_precision: `native`, `bf16`, or `int8` for the bundle's 8-bit graphs. Default: `native`.
        progress: Receives the progress of each stage. Default: none is reported.

    Returns:
        The errors of all stages, and the places at which they jump.

    Raises:
        ExportError: The bundle has another architecture, or its nodes have no names.
        BackendUnavailableError: The backend is not installed, or does not support the precision.
    """
    _check_fit(bundle, model)
    eager = EagerBackend(model, token_table, bundle.preprocessing)
    with temporary_folder() as folder:
        with progress("exporting the checkpoint in FP32"):
            specs, opset = graph_specs(model, "float32"), bundle.manifest["recipe"]["opset"]
            encoder = EncoderGraph(model, uint8_to_images(bundle.preprocessing))
            export_graph(encoder, specs["encoder"], folder / ENCODER, opset=opset)
            step = DecoderStepGraph(model, token_table)
            export_graph(step, specs["decoder_step"], folder / DECODER_STEP, opset=opset)
        return compare_graphs(
            bundle,
            folder,
            eager,
            crops,
            tokens,
            backend=backend,
            compute_precision=compute_precision,
            progress=progress,
        )


def compare_graphs(
    bundle: Bundle,
    reference: Path,
    eager: EagerBackend,
    crops: npt.NDArray[np.uint8],
    tokens: Int64Array,
    *,
    backend: BackendName = "onnxruntime",
    compute_precision: ComputePrecision = "native",
    progress: Progress = silent,
) -> Explanation:
    """Run `explain` with the FP32 graphs in the folder `reference`."""
    run, exact = runs_on(backend, compute_precision), runs_on("onnxruntime")
    noise = NOISE[bundle.precision if compute_precision == "native" else compute_precision]
    encoder_graph, step_graph = graphs_for(bundle, compute_precision)

    def comparison(graph: Path, name: str) -> Comparison:
        return Comparison(StagedGraph(graph, run), StagedGraph(reference / name, exact), noise)

    with progress("comparing the encoder"):
        encoder = comparison(encoder_graph, ENCODER)
        _, expected = encoder.compare("encoder", {"crops": crops}, {"crops": crops})
        cross_kv = expected["cross_kv"]
    with progress("comparing the decoder step"):
        step = comparison(step_graph, DECODER_STEP)
        tokens = tokens[:, : np.count_nonzero((tokens != PAD).any(0))]
        log_probs = _compare_steps(step, tokens, cross_kv, bundle.dimensions)
    with progress("comparing the FP32 graphs with PyTorch"):
        state = eager.encode(crops)
        export_error = max(
            relative_error(cross_kv, state.cross_kv.numpy()),
            relative_error(log_probs, eager.step(state, tokens).log_probs),
        )
    return Explanation(
        backend=backend,
        compute_precision=compute_precision,
        noise=noise,
        export_error=export_error,
        stages=(*encoder.stages, *step.stages),
        jumps=(*encoder.jumps, *step.jumps),
    )


def _compare_steps(step: Comparison, tokens: Int64Array, cross_kv: Array, d: Dimensions) -> Array:
    """Compare the first half of the tokens in one call, and the rest in another that reads the cache of the first.

    Both graphs get the reference's `cross_kv`, so that errors of the encoder do not count here. Returns the reference's
    log-probabilities (B, T, V).
    """
    rows, used = tokens.shape
    got_kv = expected_kv = np.zeros((2 * d.layers, rows, d.heads, d.capacity, d.head_size), dtype=np.float32)
    log_probs = []
    for start, stop in ((0, used // 2), (used // 2, used)):
        part = f"decoder_step, tokens {start} to {stop - 1}" + (", from the cache" if start else "")
        inputs = {"tokens": tokens[:, start:stop], "position": np.full(rows, start), "cross_kv": cross_kv}
        got, expected = step.compare(part, {**inputs, "self_kv": got_kv}, {**inputs, "self_kv": expected_kv})
        got_kv, expected_kv = got["self_kv_out"], expected["self_kv_out"]
        log_probs.append(expected["log_probs"])
    return np.concatenate(log_probs, axis=1)


def _check_fit(bundle: Bundle, model: SequencePAR) -> None:
    for name, got in dataclasses.asdict(bundle.dimensions).items():
        if got != (expected := getattr(model.architecture, name)):
            raise ExportError(
                f"{bundle.path}: {name} must be {expected} as in the checkpoint, got {got}; "
                "pass the checkpoint that the bundle was exported from"
            )
