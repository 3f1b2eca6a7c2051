"""Compare the time of a full-size decoder step on CPUs with the time to read its weights and caches from memory.

    .venv/bin/python benchmarks/decoder_step.py

It takes 4 minutes and 0.2 GB of disk. The decoder is that of ViT-L/14 on PETA with random weights: 6 layers, d = 768, 8
heads of 64 channels, 36 slots. Each row is at position 10. The limit of a step is (weights + caches of the batch) /
(read rate of this many bytes, repeated, measured beside the step). A last-level cache keeps a part of them, so that
rate is above that of the memory. Steps of many tokens are bound by multiplications instead. Their ratio says only how
far wide steps are from free.

`host` is the graph that CPU backends run. `whole cache` is `decoder_step.onnx`, which takes both caches as one tensor
each and returns a new one. CPU backends ran it before, and GPU backends still do.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.backends import available_backends
from seqpar_deploy.backends.base import Int64Array
from seqpar_deploy.backends.host import HostState, SessionBackend, copies_cache
from seqpar_deploy.backends.sessions import OnnxRuntimeSession, OpenVinoSession, Session
from seqpar_deploy.bench.memory import best_read
from seqpar_deploy.bench.roofline import BEYOND_CACHE
from seqpar_deploy.bundle import (
    DECODER_STEP,
    HOST_DECODER_STEP,
    INT8_DECODER_STEP,
    INT8_HOST_DECODER_STEP,
    BatchProfile,
    Bundle,
    Dimensions,
)
from seqpar_deploy.cli.console import stage
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine, thread_limit
from seqpar_deploy.resources import load_label_set

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "decoder_step.json"
RUNTIMES: dict[str, Callable[[Path], Session]] = {"onnxruntime": OnnxRuntimeSession, "openvino": OpenVinoSession}
GRAPHS = {
    ("fp32", "whole cache"): DECODER_STEP,
    ("fp32", "host"): HOST_DECODER_STEP,
    ("int8", "whole cache"): INT8_DECODER_STEP,
    ("int8", "host"): INT8_HOST_DECODER_STEP,
}
Variant = tuple[str, str, str]  # runtime, precision, graph
POSITION = 10
PAUSE = 0.05  # seconds before each burst: ONNX Runtime's threads spin for a while after a step, and slow others down
WARM_UP = 5  # steps: the first after a pause take up to 1.3 times as long
READ_SECONDS = 0.12  # per library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds per case; default: 5")
    parser.add_argument("--steps", type=int, default=15, help="timed steps per round, after 5 others; default: 15")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="rows; default: 1 8")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 16], help="tokens per row; default: 1 8 16")
    parser.add_argument("--image-tokens", type=int, nargs="+", default=[257, 129], help="N; default: 257 129")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, help="default: all that are installed")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "runs" / "decoder-step",
        help="folder of the graphs, which are exported if it has none; default: runs/decoder-step",
    )
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    runtimes = options.runtimes or [name for name in RUNTIMES if name in available_backends()]
    folder = options.work
    if not (folder / INT8_HOST_DECODER_STEP).exists():  # the last one that is written
        with stage("exporting the decoder step"):
            export_decoder(folder)
    bundle = decoder_bundle(folder)
    with stage("opening the graphs"):
        backends = {
            (runtime, precision, graph): open_step(bundle, runtime, folder / file)
            for runtime in runtimes
            for (precision, graph), file in GRAPHS.items()
        }
    weights = {precision: weight_bytes(folder / file) for (precision, _), file in GRAPHS.items()}
    cases = [
        row
        for n in options.image_tokens
        for rows in options.batches
        for tokens in options.tokens
        for row in measure(bundle, backends, weights, (rows, tokens, n), options.rounds, options.steps)
    ]
    values = {
        "what": "medians of a decoder step at position 10; limit: bytes of weights and caches / measured read rate",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": describe_machine(),
        "rounds": options.rounds,
        "steps_per_round": options.steps,
        "beyond_cache_gb_per_second": round(best_read(BEYOND_CACHE, threads=thread_limit(), seconds=0.3)[0] / 1e9, 2),
        "cases": cases,
    }
    write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())


def export_decoder(folder: Path) -> None:
    """Write the graphs of a full-size decoder with random weights. Its image tower is the smallest possible one."""
    import torch

    from seqpar_deploy.exporting.graphs import DecoderStepGraph, export_graph, graph_specs
    from seqpar_deploy.exporting.host_step import write_host_step
    from seqpar_deploy.exporting.int8 import write_int8_step
    from seqpar_deploy.modeling.architecture import Architecture
    from seqpar_deploy.modeling.random_weights import random_model

    folder.mkdir(parents=True, exist_ok=True)
    small = {"layers": 1, "width": 64}
    a = Architecture(
        attributes=len(load_label_set("peta")),
        embed_dim=768,
        vision={"image_size": 224, "patch_size": 14, "head_width": 64, **small},
        text={"context_length": 8, "vocab_size": 64, "heads": 1, **small},
    )
    model, table = random_model(a), torch.randn(a.vocabulary, a.embed_dim, generator=torch.Generator().manual_seed(0))
    spec = graph_specs(model, "float32")["decoder_step"]
    export_graph(DecoderStepGraph(model, table), spec, folder / DECODER_STEP, opset=20)
    write_host_step(folder / DECODER_STEP, folder / HOST_DECODER_STEP)
    write_int8_step(folder)


def decoder_bundle(folder: Path) -> Bundle:
    label_set = load_label_set("peta")
    n = len(label_set)
    return Bundle(
        path=folder,
        manifest={},
        label_set=label_set,
        dimensions=Dimensions(
            image_size=224,
            image_tokens=257,
            layers=6,
            heads=8,
            head_size=64,
            capacity=n + 1,
            vocabulary=n + 3,
        ),
        precision="fp32",
        batches=(BatchProfile(),),
    )


def open_step(bundle: Bundle, runtime: str, graph: Path) -> SessionBackend:
    session = RUNTIMES[runtime](graph)
    copies = copies_cache(graph)  # nothing is encoded
    return SessionBackend(bundle, name=runtime, encoder=session, decoder_step=session, copies_cache=copies)


def weight_bytes(graph: Path) -> int:
    """The host graph has the weights of the other."""
    file = graph.with_name(graph.name.replace("_host", "") + ".data")
    return file.stat().st_size


def measure(
    bundle: Bundle,
    backends: dict[Variant, SessionBackend],
    weights: dict[str, int],
    sizes: tuple[int, int, int],
    rounds: int,
    steps: int,
) -> list[dict[str, Any]]:
    """Time one step of each variant, interleaved with the read rates of its bytes."""
    (rows, tokens, n), d = sizes, bundle.dimensions
    rng = np.random.default_rng(0)
    fed = rng.integers(3, d.vocabulary, (rows, tokens))
    cross_kv = rng.standard_normal((2 * d.layers, rows, d.heads, n, d.head_size), dtype=np.float32)
    self_kv = rng.standard_normal((2 * d.layers, rows, d.heads, d.capacity, d.head_size), dtype=np.float32)
    cache = cross_kv.nbytes + 2 * self_kv.nbytes  # as in bench/flops.py: image tokens are read, slots read and written
    taken: dict[Variant, list[float]] = defaultdict(list)
    rates: dict[str, list[tuple[float, str]]] = defaultdict(list)
    with stage(f"{rows} rows of {tokens} tokens, {n} image tokens"):
        for _ in range(rounds):
            for precision, size in weights.items():
                time.sleep(PAUSE)
                rates[precision].append(best_read(size + cache, threads=thread_limit(), seconds=READ_SECONDS))
            for variant, backend in backends.items():
                state = HostState(self_kv.copy(), cross_kv, None)
                state.advance(POSITION)
                time.sleep(PAUSE)
                taken[variant].append(step_seconds(backend, state, fed, steps))
    found = []
    for (runtime, precision, graph), of_rounds in taken.items():
        read = weights[precision] + cache
        # Neighbours of a virtual machine change the rate from one second to the next, so each round has its own ratio.
        ratios = [taken_by * rate / read for taken_by, (rate, _) in zip(of_rounds, rates[precision], strict=True)]
        rate, read_by = sorted(rates[precision])[rounds // 2]
        row = {"runtime": runtime, "precision": precision, "graph": graph, "rows": rows, "tokens": tokens}
        row |= {"image_tokens": n, "seconds": round(float(np.median(of_rounds)), 6), "bytes": read}
        row |= {"gb_per_second": round(rate / 1e9, 2), "read_by": read_by, "limit_seconds": round(read / rate, 6)}
        found.append(row | {"ratio": round(float(np.median(ratios)), 2)})
        print("  ".join(str(value) for value in found[-1].values()), flush=True)
    return found


def step_seconds(backend: SessionBackend, state: HostState, tokens: Int64Array, steps: int) -> float:
    """Return the median seconds of a step, each from the same position."""
    taken = []
    for _ in range(steps + WARM_UP):
        start = time.perf_counter()
        backend.step(state, tokens)
        taken.append(time.perf_counter() - start)
        state.truncate(np.full(len(tokens), POSITION))
    return float(np.median(taken[WARM_UP:]))


if __name__ == "__main__":
    main()
