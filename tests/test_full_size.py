"""The model of the paper's size (ViT-L/14, PETA, random weights), from checkpoint to attributes with the commands a
user types. It takes minutes, and 3 GB of disk until it ends.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from test_build_engines import assert_typed_as_designed

from seqpar_deploy import Bundle
from seqpar_deploy.backends import open_backend
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.images import read_image
from seqpar_deploy.parity.gate import first_divergence
from seqpar_deploy.parity.reference import reference_generations
from seqpar_deploy.preprocess import prepare_batch
from seqpar_deploy.resources import data_dir, sample_crops

pytestmark = pytest.mark.heavy

CROPS = sample_crops()[:4]
FEWER = {"crops": 2, "rendered": 0, "beams": 1, "largest_batch": 4}  # than the recipes that ship
MAKE_CHECKPOINT = """
import sys, torch
from seqpar_deploy.modeling.architecture import vit_l_14
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.resources import load_label_set
labels = load_label_set("peta")
save_checkpoint(sys.argv[1], random_model(vit_l_14(len(labels))), labels, dtype=torch.float16)
"""


def run(program: str, *arguments: object) -> tuple[str, int]:
    """Run a program of this environment; what it printed, and the bytes of memory it held at most.

    The figure is this child's, not that of all children as with `getrusage`. It is never less than what this process
    held when it started the child, as Linux counts from before the child's `exec`: a bound from above.
    """
    command = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{program} failed, see what it said on standard error"
    return printed, usage.ru_maxrss * 1024


@dataclasses.dataclass(frozen=True)
class Exported:
    bundle: Path
    memory: int  # bytes


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Exported]]:
    """The FP32 and the FP16 bundle of one checkpoint, made with recipes of the user's own: fewer crops than ours,
    and no drafts."""
    folder = tmp_path_factory.mktemp("full-size")
    try:
        checkpoint = folder / "random.safetensors"
        run("python", "-c", MAKE_CHECKPOINT, checkpoint)
        made = {}
        for precision in ("fp32", "fp16"):
            recipe, out = folder / f"{precision}.toml", folder / precision
            ours = (data_dir("export") / f"{precision}.toml").read_text().partition("[drafts]")[0]
            for number in FEWER:
                ours = re.sub(rf"^{number} = \d+", f"{number} = {FEWER[number]}", ours, flags=re.MULTILINE)
            recipe.write_text(ours)
            _, memory = run("seqpar-export", "checkpoint", checkpoint, "--recipe", recipe, "--out", out)
            made[precision] = Exported(out, memory)
        checkpoint.unlink()
        yield made
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_export_stays_below_8_gb(exports: dict[str, Exported], precision: str) -> None:
    assert exports[precision].memory < 8e9
    bundle = Bundle.open(exports[precision].bundle)
    assert (bundle.precision, bundle.dimensions.image_tokens, bundle.dimensions.capacity) == (precision, 257, 36)
    assert bundle.manifest["recipe"]["parity"]["crops"] == 2
    assert bundle.manifest["parity"]["passed"]


def test_predicts_what_the_checkpoint_said(exports: dict[str, Exported]) -> None:
    bundle = exports["fp32"].bundle
    printed, memory = run("seqpar", "predict", *CROPS, "-b", bundle, "--backend", "onnxruntime", "--json")
    people = [json.loads(line) for line in printed.splitlines()]
    assert [person["image"] for person in people] == [str(path) for path in CROPS]
    tokens = [tuple(person["tokens"]) for person in people]
    assert len(set(tokens)) > 1  # else nothing is compared
    golden = Bundle.open(bundle, verify=False).golden()
    for said, wanted in zip(tokens, golden["tokens"][golden["kinds"] == "real"], strict=False):
        assert said == tuple(wanted[1 : 1 + len(said)].tolist())
    assert memory < 4e9


def test_fp16_says_what_fp32_says(exports: dict[str, Exported]) -> None:
    """Both on ONNX Runtime: FP32's sequences, and the log-probabilities along them."""
    full, half = (Bundle.open(exports[precision].bundle, verify=False) for precision in ("fp32", "fp16"))
    crops = prepare_batch(
        [read_image(path) for path in CROPS], image_size=full.dimensions.image_size, preprocessing=full.preprocessing
    )
    with closing(open_backend(full, "onnxruntime")) as backend:
        wanted = reference_generations(backend, crops, max_steps=full.dimensions.capacity - 1)
    with closing(open_backend(half, "onnxruntime")) as backend:
        state = backend.encode(crops)
        log_probs = backend.step(state, wanted.tokens[:, :-1]).log_probs
        state.truncate(np.zeros(len(crops), dtype=np.int64))
        said = Greedy().generate(backend, state, max_steps=full.dimensions.capacity - 1)
    differences = [np.abs(log_probs - wanted.log_probs)[crop, :length] for crop, length in enumerate(wanted.lengths)]
    tolerances = load_recipe("fp16").parity
    assert np.median(np.concatenate(differences)) <= 2e-2
    assert np.max(np.concatenate(differences)) <= tolerances.log_prob_max
    for crop, generation in enumerate(said):
        divergence = first_divergence(wanted, crop, generation.tokens, tolerances.tie_margin)
        assert divergence is None or divergence.tie


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="no wheel for this platform")
def test_tensorrt_rtx_builds_the_fp16_engines(exports: dict[str, Exported]) -> None:
    bundle = Bundle.open(exports["fp16"].bundle, verify=False)
    assert_typed_as_designed(bundle)
    printed, memory = run("seqpar-export", "engine", bundle.path)
    folder = Path(printed.strip())
    values = json.loads((folder / "engine.json").read_text())
    assert values["batches"] == bundle.manifest["batches"]
    for name in ("encoder", "decoder_step"):
        weights = (bundle.path / f"{name}.onnx.data").stat().st_size
        assert (folder / f"{name}.plan").stat().st_size > 0.9 * weights
    assert memory < 8e9
