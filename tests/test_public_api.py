from __future__ import annotations

import subprocess
import sys

import seqpar_deploy


def test_the_public_surface_is_pinned() -> None:
    assert seqpar_deploy.__all__ == [
        "Beam",
        "Bundle",
        "Greedy",
        "Prediction",
        "Recognizer",
        "SeqparError",
        "Speculative",
        "read_image",
    ]


def test_the_runtime_imports_nothing_heavy() -> None:
    code = (
        "import sys, seqpar_deploy, seqpar_deploy.cli.main, seqpar_deploy.cli.export, seqpar_deploy.cli.bench\n"
        "heavy = {'torch', 'onnx', 'open_clip', 'onnxruntime', 'openvino', 'polygraphy', 'safetensors'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_predicting_loads_no_torch(bundle_dir, crops) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'open_clip', 'safetensors'): sys.modules[name] = None\n"
        "from seqpar_deploy import Recognizer, read_image\n"
        "from seqpar_deploy.resources import sample_crops\n"
        f"with Recognizer.from_bundle({str(bundle_dir)!r}, backend='onnxruntime') as recognizer:\n"
        "    assert len(recognizer.predict([read_image(p) for p in sample_crops()])) == 20\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
