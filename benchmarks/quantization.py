"""Compare methods of 8-bit quantisation on the demo model, by speed and by the share of crops that need the fallback.

    .venv/bin/python benchmarks/quantization.py

Encoder: exporting/int8.py, ONNX Runtime's quantize_static (MinMax, Percentile, Entropy), and NNCF with and without
SmoothQuant, of all operators and of multiplications by weights only, all calibrated on the same crops. Decoder step:
the 8-bit weights of exporting/int8.py, ONNX Runtime's MatMulNBits and NNCF's compress_weights. Each method replaces one
of the two graphs. Both graphs run on ONNX Runtime and on OpenVINO and are compared with FP32 on the same runtime.
Timings are interleaved. NNCF is skipped if it is not installed (`pip install nncf`).
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from demo_bundle import ROOT, export_demo

from seqpar_deploy.backends import Backend, open_backend
from seqpar_deploy.bench.comparison import SETTLE
from seqpar_deploy.bench.margins import Prepared, Reference, decode_along, fallback_margin, make_reference, prepare
from seqpar_deploy.bundle import DECODER_STEP, ENCODER, INT8_DECODER_STEP, INT8_ENCODER, MANIFEST, Bundle
from seqpar_deploy.cli.console import stage
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.parity.crops import calibration_crops
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.synth.render import render_person
from seqpar_deploy.vocab import BOS

RESULT = ROOT / "benchmarks" / "results" / f"quantization-{platform.machine()}-cpu.json"
RUNTIMES = ("onnxruntime", "openvino")
TEST_SEED = 4000  # rendered people, of no training and no calibration
CALIBRATION_CROPS = 64  # the same number as in export/int8.toml

Crops = npt.NDArray[np.uint8]
Method = Callable[[Path, Path, Crops], None]  # (FP32 graph, 8-bit graph to write, calibration crops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=200, help="crops to compare, of which 20 are real; default: 200")
    parser.add_argument("--rounds", type=int, default=40, help="timed rounds; default: 40")
    parser.add_argument("--only", nargs="+", help="methods to measure, by name; default: all")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "quantization", help="folder for the bundles")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    ours = export_demo(options.work / "ours", "int8", progress=stage)
    bundles, skipped = {"ours": ours}, {}
    for name, (graph, method) in methods().items():
        if not options.only or name in options.only:
            try:
                with stage(f"quantising: {name}"):
                    bundles[name] = quantised(ours, options.work / name, graph, method)
            except Exception as error:  # one library's failure is a result; the next method follows
                skipped[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    crops = [read_image(path) for path in sample_crops()][: options.crops]
    crops += [render_person(TEST_SEED, index)[0] for index in range(options.crops - len(crops))]
    values = {
        "what": "8-bit graphs of the demo model against FP32 on the same runtime; medians for one crop and one token",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": describe_machine(),
        "nncf": installed("nncf"),
        "crops": options.crops,
        "calibration_crops": CALIBRATION_CROPS,
        "results": [
            row
            for runtime in RUNTIMES
            for row in compare(runtime, bundles, prepare(ours, crops), options.rounds, skipped)
        ],
        "skipped": skipped,
    }
    write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())
    show(values)


def methods() -> dict[str, tuple[str, Method]]:
    """Return each method by name, with the graph that it quantises."""
    found: dict[str, tuple[str, Method]] = {
        f"onnxruntime {name}": (ENCODER, static(name)) for name in ("MinMax", "Percentile", "Entropy")
    }
    return found | {
        "nncf": (ENCODER, nncf_static(smooth_quant=False)),
        "nncf SmoothQuant": (ENCODER, nncf_static(smooth_quant=True)),
        "nncf, by weights": (ENCODER, nncf_static(smooth_quant=False, by_weights=True)),
        "nncf SmoothQuant, by weights": (ENCODER, nncf_static(smooth_quant=True, by_weights=True)),
        "onnxruntime MatMulNBits step": (DECODER_STEP, matmul_nbits),
        "nncf compress_weights step": (DECODER_STEP, nncf_weights),
    }


def static(calibration: str) -> Method:
    """ONNX Runtime's static quantisation of multiplications by weights: activations per tensor, weights per channel."""

    def write(graph: Path, out: Path, crops: Crops) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        quantize_static(
            graph,
            out,
            Reader(crops),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[calibration],
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )

    return write


class Reader:
    """Calibration crops, one at a time, as ONNX Runtime reads them."""

    def __init__(self, crops: Crops) -> None:
        self._crops = iter(crops)

    def get_next(self) -> dict[str, Crops] | None:
        crop = next(self._crops, None)
        return None if crop is None else {"crops": crop[None]}


def nncf_static(*, smooth_quant: bool, by_weights: bool = False) -> Method:
    """Quantise with NNCF for Transformers: all supported operators, or only multiplications `by_weights`."""

    def write(graph: Path, out: Path, crops: Crops) -> None:
        import nncf
        import onnx

        model = onnx.load(graph)
        weights = {tensor.name for tensor in model.graph.initializer}
        others = [n.name for n in model.graph.node if n.op_type != "MatMul" or n.input[1] not in weights]
        model = nncf.quantize(
            model,
            nncf.Dataset([{"crops": crop[None]} for crop in crops]),
            subset_size=len(crops),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=others, validate=False) if by_weights else None,
            advanced_parameters=None if smooth_quant else nncf.AdvancedQuantizationParameters(smooth_quant_alpha=-1),
        )
        save(model, out)

    return write


def matmul_nbits(graph: Path, out: Path, _crops: Crops) -> None:
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(graph), bits=8, block_size=128, is_symmetric=True)
    quantizer.process()
    save(quantizer.model.model, out)


def nncf_weights(graph: Path, out: Path, _crops: Crops) -> None:
    import nncf
    import onnx

    save(nncf.compress_weights(onnx.load(graph), mode=nncf.CompressWeightsMode.INT8_SYM), out)


def save(model: Any, path: Path) -> None:
    import onnx

    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


def quantised(ours: Bundle, folder: Path, graph: str, method: Method) -> Bundle:
    """Return a copy of our bundle in which `method` wrote one of the 8-bit graphs."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ours.path, folder)
    out = folder / {ENCODER: INT8_ENCODER, DECODER_STEP: INT8_DECODER_STEP}[graph]
    for file in folder.glob(f"{out.name}*"):
        file.unlink()
    method(folder / graph, out, prepare(ours, calibration_crops(CALIBRATION_CROPS)).squares)
    manifest = json.loads((folder / MANIFEST).read_text())
    for file in folder.glob(f"{out.name}*"):
        content = file.read_bytes()
        manifest["files"][file.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(folder, verify=False)


def compare(
    runtime: str, bundles: dict[str, Bundle], crops: Prepared, rounds: int, skipped: dict[str, str]
) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        native = stack.enter_context(closing(open_backend(bundles["ours"], runtime)))  # type: ignore[arg-type]
        backends = {"fp32": native}
        with stage(f"{runtime}, fp32") as on_progress:
            reference = make_reference(bundles["ours"], native, crops, on_progress)
        rows = []
        for name, bundle in bundles.items():
            try:
                backend = open_backend(bundle, runtime, compute_precision="int8")  # type: ignore[arg-type]
                stack.enter_context(closing(backend))
                rows.append({"runtime": runtime, "method": name, **accuracy(bundle, backend, crops, reference)})
                backends[name] = backend
            except Exception as error:  # a runtime may lack the method's operators
                skipped[f"{name} on {runtime}"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        with stage(f"{runtime}, timing"):
            times = time_all(backends, crops, rounds)
        for row in rows:
            row |= {
                f"{graph}_relative_to_fp32": times[row["method"]][graph] / of for graph, of in times["fp32"].items()
            }
        return rows


def accuracy(bundle: Bundle, backend: Backend[Any], crops: Prepared, reference: Reference) -> dict[str, Any]:
    with stage(f"{backend.name}, {bundle.path.name}") as on_progress:
        generations, log_probs = decode_along(bundle, backend, crops, reference, on_progress)
    margin = fallback_margin(log_probs, reference)
    tokens = reference.sequences[:, 1:, None]
    shifts = np.take_along_axis(np.abs(log_probs - reference.log_probs), tokens, axis=-1)[..., 0][reference.is_choice]
    pairs = zip(generations, reference.generations, strict=True)
    return {
        "fallback_margin": margin,
        "fallback_share": float(np.mean([not one.margin >= margin for one in generations])),
        "different": sum(got.tokens != expected.tokens for got, expected in pairs),
        "median_log_prob_shift": float(np.median(shifts)),
    }


def time_all(backends: dict[str, Backend[Any]], crops: Prepared, rounds: int) -> dict[str, dict[str, float]]:
    """Return median seconds of the encoder on one crop and of a step of one token. Backends are interleaved."""
    taken: dict[str, dict[str, list[float]]] = {name: {"encoder": [], "step": []} for name in backends}
    token = np.array([[BOS]], dtype=np.int64)
    for number in range(rounds + 1):
        crop = crops.batch([number % len(crops)])
        for name, backend in backends.items():
            time.sleep(SETTLE / 3)
            start = time.perf_counter()
            state = backend.encode(crop)
            taken[name]["encoder"].append(time.perf_counter() - start)
            for _ in range(5):
                start = time.perf_counter()
                backend.step(state, token)
                taken[name]["step"].append(time.perf_counter() - start)
    return {
        name: {"encoder": float(np.median(of["encoder"][1:])), "step": float(np.median(of["step"][5:]))}
        for name, of in taken.items()
    }


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def show(values: dict[str, Any]) -> None:
    print(f"{'':44}  fallback  different  median shift  encoder  step")
    for row in values["results"]:
        print(
            f"{row['runtime'] + ', ' + row['method']:44}  {row['fallback_share']:8.1%}  {row['different']:9}"
            f"  {row['median_log_prob_shift']:12.2g}  {row['encoder_relative_to_fp32']:7.2f}"
            f"  {row['step_relative_to_fp32']:4.2f}"
        )
    for name, why in values["skipped"].items():
        print(f"skipped {name}: {why}")


if __name__ == "__main__":
    main()
