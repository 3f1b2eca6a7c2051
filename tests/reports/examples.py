"""A benchmark result and a parity report as the commands write them. The figures are made up."""

from __future__ import annotations

from typing import Any

import numpy as np

MACHINE = {
    "processor": "Made-up Processor @ 2.80GHz (avx2, avx512f, avx512_vnni)",
    "architecture": "x86_64",
    "cores": 2,
    "memory_gb": 25.3,
    "system": "Linux 6.18",
    "python": "3.11.7",
    "packages": {"seqpar-deploy": "0.1.0", "numpy": "2.4.6", "torch": "2.15.0", "onnxruntime": "1.32.0"},
}
DIGEST = "296368cba4760c5a6a8372bf37befa7bca018da6359f93e59d113794dacdda2d"

_VARIANTS = (  # name, description, precision, p50 in ms, steps, share of the decoder, memory in MB
    ("published", "PyTorch, as published", "fp32", 6648, 35, 0.3, 3900),
    ("eager", "PyTorch, text tower folded, cached", "fp32", 1716, 35, 0.3, 2900),
    ("eager-speculative", "PyTorch, speculative greedy decoding", "fp32", 1502, 6.5, 0.2, 2900),
    ("compiled", "torch.compile, text tower folded, cached", "fp32", 1490, 35, 0.28, 3100),
    ("onnxruntime", "bundle, ONNX Runtime", "fp32", 1366, 35, 0.33, 2300),
    ("onnxruntime-speculative", "bundle, ONNX Runtime, speculative greedy decoding", "fp32", 1105, 6.5, 0.12, 2310),
    ("openvino", "bundle, OpenVINO", "fp32", 1382, 35, 0.34, 2100),
    ("openvino-speculative", "bundle, OpenVINO, speculative greedy decoding", "fp32", 1028, 6.5, 0.1, 2110),
    ("openvino-bf16", "bundle, OpenVINO, bf16", "bf16", 702, 35, 0.31, 1300),
    ("openvino-bf16-speculative", "bundle, OpenVINO, bf16, speculative", "bf16", 498, 6.5, 0.11, 1310),
    ("onnxruntime-int8", "int8 bundle, ONNX Runtime", "int8", 640, 35, 0.36, 820),
    ("onnxruntime-int8-speculative", "int8 bundle, ONNX Runtime, speculative", "int8", 431, 6.6, 0.13, 830),
)
_PEAK = {"fp32": 160e9, "bf16": 300e9, "int8": 520e9}
_BYTES = 30e9
_MODEL = {"encoder_flops": 100e9, "encoder_bytes": 1.3e9, "step_flops": 0.17e9, "step_bytes": 0.34e9}
_SIZE = {"fp32": 1.0, "bf16": 0.5, "int8": 0.25}


def bench_result() -> dict[str, Any]:
    """Twelve variants."""
    rng = np.random.default_rng(1)
    variants, shares = [], []
    for name, description, precision, median, steps, decoder, memory in _VARIANTS:
        seconds = median / 1e3 * (1 + 0.06 * rng.gamma(1.5, 1.0, size=40))
        p50, p95, p99 = (float(value) for value in np.quantile(seconds, (0.5, 0.95, 0.99)))
        stages = {"preprocess": 0.002, "encode": p50 * (0.97 - decoder), "decode": p50 * decoder, "host": p50 * 0.02}
        variants.append(
            {
                "name": name,
                "description": description,
                "precision": precision,
                "seconds": seconds.tolist(),
                "p50": p50,
                "p95": p95,
                "p99": p99,
                "stages": stages,
                "steps": float(steps),
                "step_seconds": stages["decode"] / steps,
                "identical": name != "onnxruntime-int8-speculative",
                "cold_start_seconds": 4.2 + p50,
                "first_call_seconds": 1.4 * p50,
                "load_seconds": 2.1,
                "peak_memory_bytes": int(memory * 1e6),
                "joules_per_crop": None if "int8" in name else 30 * p50,
                "throughput": [
                    {"batch": batch, "crops_per_second": batch / (p50 * (0.25 + 0.75 * batch**0.93))}
                    for batch in (1, 2, 4, 8, 16)
                ],
            }
        )
        times = {"encoder": stages["encode"], "decoder_step": stages["decode"] / steps}
        for (graph, time), key in zip(times.items(), ("encoder", "step"), strict=True):
            flops, size = _MODEL[f"{key}_flops"], _MODEL[f"{key}_bytes"] * _SIZE[precision]
            of_gemm, of_bandwidth = flops / time / _PEAK[precision], size / time / _BYTES
            shares.append(
                {
                    "variant": name,
                    "graph": graph,
                    "seconds": time,
                    "flops": flops,
                    "bytes": size,
                    "share_of_gemm": of_gemm,
                    "share_of_bandwidth": of_bandwidth,
                    "bound_by": "gemm" if of_gemm > of_bandwidth else "bandwidth",
                }
            )
    return {
        "what": "seconds end to end, from raw crops to attributes",
        "date": "2026-11-26",
        "machine": MACHINE,
        "bundle": {
            "digest": DIGEST,
            "label_set": "peta",
            "precision": "fp32",
            "checkpoint": {"file": "peta-random.safetensors", "sha256": "aa6fed497a5aa790db771a5d09eb2677"},
            "producer": {"seqpar_deploy": "0.1.0", "torch": "2.15.0", "onnx": "1.23.2", "opset": 20},
        },
        "settings": {"crops": 1, "runs": 40, "threads": None},
        "variants": variants,
        "skipped": [
            {"name": "tensorrt", "why": "TensorRT is not installed; pip install 'seqpar-deploy[tensorrt]'"},
            {"name": "onnxruntime-cuda", "why": "no NVIDIA GPU was found"},
        ],
        "roofline": {"gemm_flops_per_second": _PEAK, "bytes_per_second": _BYTES},
        "model": _MODEL,
        "shares": shares,
    }


def parity_report(*, passed: bool = False) -> dict[str, Any]:
    """A report of 64 crops, by default with three divergences of which one is no tie."""
    divergences = [
        {
            "crop": 3,
            "name": "person-04-f0140.png",
            "step": 12,
            "wanted": 21,
            "got": 24,
            "margin": 0.0004,
            "tie": True,
            "wanted_attributes": ["Female", "AgeLess16", "LongSleeve", "Trousers", "Backpack"],
            "got_attributes": ["Female", "LongSleeve", "Trousers", "Backpack", "AgeLess16"],
        },
        {
            "crop": 8,
            "name": "person-09-f0478.png, mirrored and half its height",
            "step": 4,
            "wanted": 9,
            "got": 14,
            "margin": 1.374,
            "tie": False,
            "wanted_attributes": ["Male", "Age18-60", "ShortSleeve", "UpperStride", "Trousers", "HandBag", "Back"],
            "got_attributes": ["Male", "Age18-60", "LongSleeve", "UpperLogo", "Trousers", "HandBag", "Back"],
        },
        {
            "crop": 41,
            "name": "all black, 1 x 400",
            "step": 1,
            "wanted": 5,
            "got": 7,
            "margin": 0.0012,
            "tie": True,
            "wanted_attributes": ["Male"],
            "got_attributes": [],
        },
    ]
    breach = (
        "person-09-f0478.png, mirrored and half its height: at step 4 expected token 9 (ShortSleeve), got 14 "
        "(LongSleeve), margin 1.374; log_prob_max differs by 1.61, expected at most 0.5"
    )
    details = {
        "preprocessing": "64 crops prepared to the same bytes",
        "finite": "every log-probability is finite",
        "greedy": "61 of 64 sequences identical, 2 differ at a tie",
        "beam": "20 of 20 sequences identical at width 4",
        "speculative": "64 of 64 sequences identical",
        "batches of 8": "every slot answers for its own crop",
        "grouping": "64 crops in batches of 8, in three orders: identical",
        "cache": "one call of 35 tokens equals 35 calls of 1 token",
    }
    failing = set() if passed else {"greedy"}
    return {
        "passed": passed,
        "backend": "onnxruntime",
        "reference": "checkpoint",
        "crops": 64,
        "kinds": {"real": 20, "rendered": 32, "adversarial": 12},
        "identical": 64 if passed else 61,
        "identical_sets": 64 if passed else 62,
        "ties": 0 if passed else 2,
        "breaches": [] if passed else [breach],
        "divergences": [] if passed else divergences,
        "log_prob_median": 3.1e-7 if passed else 0.0021,
        "log_prob_p99": 2.4e-6 if passed else 0.0437,
        "log_prob_max": 8.8e-6 if passed else 1.61,
        "checks": [
            {"name": name, "status": "failed" if name in failing else "passed", "detail": text}
            for name, text in details.items()
        ],
        "scores": {"wanted": {"mA": 0.8412, "F1": 0.9240}, "got": {"mA": 0.8409, "F1": 0.9238}, "people": 870},
        "tolerances": {
            "backend": "onnxruntime",
            "crops": 64,
            "log_prob_median": 0.02,
            "log_prob_max": 0.5,
            "tie_margin": 0.05,
        },
    }


def parity_bundle() -> dict[str, Any]:
    return {"name": "peta-fp16", "digest": DIGEST, "precision": "fp16", "label_set": "peta", "machine": MACHINE}
