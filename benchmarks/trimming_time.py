"""Time of the encoder by the width of crops, in ONNX Runtime and OpenVINO. Part of trimming.py."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.backends.sessions import OnnxRuntimeSession, OpenVinoSession
from seqpar_deploy.bench.table import Row, format_columns
from seqpar_deploy.exporting.graphs import EncoderGraph, export_graph, graph_specs, uint8_to_images
from seqpar_deploy.modeling.architecture import vit_l_14
from seqpar_deploy.modeling.load import load_network
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.preprocess import Preprocessing, default_columns
from seqpar_deploy.progress import Progress

RUNTIMES = {"onnxruntime": OnnxRuntimeSession, "openvino": OpenVinoSession}
BATCHES = (1, 4)


def measure(checkpoint: Path, blocks: int, rounds: int, progress: Progress) -> dict[str, Any]:
    """Time the checkpoint's encoder and, if `blocks` is not 0, a ViT-L/14 of so many blocks and random weights."""
    rows: list[dict[str, Any]] = []
    with progress("exporting"):
        models: dict[str, tuple[SequencePAR, Preprocessing]] = {}
        loaded = load_network(checkpoint)
        models["demo"] = loaded.network, loaded.label_set.preprocessing
        if blocks:
            architecture = vit_l_14(26)
            vision = {**architecture.vision, "layers": blocks}
            text = {**architecture.text, "layers": 1, "vocab_size": 49408}
            network = random_model(dataclasses.replace(architecture, vision=vision, text=text))
            models[f"ViT-L/14, {blocks} of 24 blocks"] = network, Preprocessing()
    for name, (network, preprocessing) in models.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "encoder.onnx"
            graph = EncoderGraph(network, uint8_to_images(preprocessing))
            export_graph(graph, graph_specs(network, "float32")["encoder"], path, opset=20)
            for runtime in RUNTIMES:
                with progress(f"{name} on {runtime}") as on_progress:
                    session = RUNTIMES[runtime](path, threads=1)
                    found = _time(session, network, rounds, on_progress)
                rows += [{"model": name, "runtime": runtime, **row} for row in found]
                del session
    return {
        "what": "encoder on one thread, FP32; medians of CPU seconds per crop; share: of the time of a whole square",
        "rounds": rounds,
        "rows": rows,
    }


def _time(session: Any, network: SequencePAR, rounds: int, on_progress: Any) -> list[dict[str, Any]]:
    a, rng = network.architecture, np.random.default_rng(0)
    widths, patch = default_columns(a.grid), a.image_size // a.grid
    crops = {
        (batch, columns): rng.integers(0, 256, (batch, a.image_size, columns * patch, 3), dtype=np.uint8)
        for batch in BATCHES
        for columns in widths
    }
    taken: dict[tuple[int, int], list[float]] = {key: [] for key in crops}
    for turn in range(rounds + 1):
        for key, batch in crops.items():
            start = time.process_time()
            session.run({"crops": batch}, ["cross_kv"])
            taken[key].append((time.process_time() - start) / len(batch))
        on_progress(turn + 1, rounds + 1)
    medians = {key: float(np.median(values[1:])) for key, values in taken.items()}  # the first run is a warm-up
    return [
        {
            "batch": batch,
            "columns": columns,
            "image_tokens": 1 + a.grid * columns,
            "cpu_seconds": seconds,
            "share": seconds / medians[batch, a.grid],
        }
        for (batch, columns), seconds in medians.items()
    ]


def table(values: Mapping[str, Any]) -> str:
    rows: list[Row] = [("", "batch", "columns", "tokens", "ms", "share")]
    for row in values["rows"]:
        name = f"{row['model']}, {row['runtime']}"
        numbers = (row["batch"], row["columns"], row["image_tokens"])
        rows.append((name, *map(str, numbers), f"{1e3 * row['cpu_seconds']:.1f}", f"{row['share']:.2f}"))
    return format_columns(rows)
