"""Fixtures. Models are tiny and made once a session; everything is offline."""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from browser import CHROMIUM, DRIVER, Browser

from seqpar_deploy import machine
from seqpar_deploy.bundle import BatchProfile, Bundle, Dimensions
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.graphs import (
    DecoderStepGraph,
    EncoderGraph,
    TensorSpec,
    export_graph,
    graph_specs,
)
from seqpar_deploy.exporting.recipe import Recipe, load_recipe
from seqpar_deploy.images import read_image
from seqpar_deploy.modeling.architecture import Architecture
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import load_label_set, sample_crops
from seqpar_deploy.vocab import LabelSet

DATA = Path(__file__).parent / "data"
GOLDEN_NAMES = ("peta-a", "pa100k-a")

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that it does not go on alone when all else is done."""
    marks = ("heavy", "slow")
    items.sort(key=lambda item: next((i for i, mark in enumerate(marks) if item.get_closest_marker(mark)), len(marks)))


@dataclasses.dataclass(frozen=True)
class Golden:
    """A model of the published code, and what it said."""

    label_set: LabelSet
    model: SequencePAR
    token_table: torch.Tensor
    expected: dict[str, torch.Tensor]

    @property
    def beam_widths(self) -> list[int]:
        return sorted(int(name.removeprefix("generated_beam")) for name in self.expected if name.startswith("gen"))

    def sequences(self, width: int) -> list[tuple[int, ...]]:
        """What the published code generated, after `<bos>` and up to `<eos>`."""
        rows = self.expected[f"generated_beam{width}"].tolist()
        return [tuple(row[1 : row.index(1) + 1] if 1 in row else row[1:]) for row in rows]


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """`golden("peta-a")`."""
    made: dict[str, Golden] = {}

    def make(name: str) -> Golden:
        if name not in made:
            label_set = load_label_set(name.removesuffix("-a"))
            checkpoint = load_checkpoint(DATA / "golden" / f"{name}.checkpoint.safetensors")
            model = build_model(checkpoint, label_set, decoder_heads=4)
            with torch.inference_mode():
                token_table = model.token_table(label_set.phrases)
            expected = safetensors.torch.load_file(DATA / "golden" / f"{name}.expected.safetensors")
            made[name] = Golden(label_set, model, token_table.clone(), expected)
        return made[name]

    return make


@pytest.fixture(scope="session")
def golden_bundle(golden: Callable[[str], Golden], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The graphs of a golden model. Its images are not bytes, so the encoder takes them as they are, normalised."""
    made: dict[str, Bundle] = {}

    def make(name: str) -> Bundle:
        if name not in made:
            made[name] = _golden_bundle(golden(name), tmp_path_factory.mktemp(name))
        return made[name]

    return make


def _golden_bundle(golden: Golden, folder: Path) -> Bundle:
    a = golden.model.architecture
    specs = graph_specs(golden.model, "float32")
    images = TensorSpec(name="crops", dtype="float32", shape=("B", 3, a.image_size, a.image_size))
    encoder_spec = dataclasses.replace(specs["encoder"], inputs=(images,))
    export_graph(EncoderGraph(golden.model, lambda x: x), encoder_spec, folder / "encoder.onnx", opset=20)
    step = DecoderStepGraph(golden.model, golden.token_table)
    export_graph(step, specs["decoder_step"], folder / "decoder_step.onnx", opset=20)
    return Bundle(
        path=folder,
        manifest={},
        label_set=golden.label_set,
        dimensions=Dimensions(
            image_size=a.image_size,
            image_tokens=a.image_tokens,
            layers=a.layers,
            heads=a.heads,
            head_size=a.head_size,
            capacity=a.capacity,
            vocabulary=a.vocabulary,
        ),
        precision="fp32",
        batches=(BatchProfile(),),
    )


def tiny_architecture(attributes: int) -> Architecture:
    """A network of a few hundred thousand weights whose every dimension differs from the others."""
    return Architecture(
        attributes=attributes,
        embed_dim=48,
        vision={"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        text={"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        layers=2,
        heads=3,
        head_size=24,
        ffn=80,
    )


@pytest.fixture(scope="session")
def label_set() -> LabelSet:
    return load_label_set("pa100k")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """`made_once(name, make)`: a folder that `make` fills once per run, for all workers. Copy before changes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                make(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def checkpoint_file(made_once: MadeOnce, label_set: LabelSet) -> Path:
    """A tiny random checkpoint in our own form."""

    def make(folder: Path) -> None:
        folder.mkdir()
        model = random_model(tiny_architecture(len(label_set)), seed=3)
        save_checkpoint(folder / "tiny.safetensors", model, label_set, dtype=torch.float32)

    return made_once("checkpoint", make) / "tiny.safetensors"


def without_drafts(recipe: str) -> Recipe:
    """A recipe that ships, without the fit of a draft head, which would take seconds for each bundle."""
    return dataclasses.replace(load_recipe(recipe), drafts=None)


@pytest.fixture(scope="session")
def fp32_recipe() -> Recipe:
    return without_drafts("fp32")


def _exported(made_once: MadeOnce, name: str, checkpoint: Path, recipe: str) -> Path:
    return made_once(name, lambda out: export_bundle(checkpoint, without_drafts(recipe), out))


@pytest.fixture(scope="session")
def bundle_dir(made_once: MadeOnce, checkpoint_file: Path) -> Path:
    """A tiny FP32 bundle. Copy it before changing it."""
    return _exported(made_once, "tiny", checkpoint_file, "fp32")


@pytest.fixture(scope="session")
def fp16_bundle_dir(made_once: MadeOnce, checkpoint_file: Path) -> Path:
    return _exported(made_once, "tiny-fp16", checkpoint_file, "fp16")


@pytest.fixture(scope="session")
def int8_bundle_dir(made_once: MadeOnce, checkpoint_file: Path) -> Path:
    """A tiny FP32 bundle with 8-bit graphs beside its exact ones. Copy it before changing it."""
    return _exported(made_once, "tiny-int8", checkpoint_file, "int8")


@pytest.fixture(scope="session")
def crops() -> list[Crop]:
    """The 20 real pedestrians."""
    return [read_image(path) for path in sample_crops()]


@pytest.fixture(params=["onnxruntime", "openvino"])
def cpu_backend(request: pytest.FixtureRequest) -> str:
    """Every backend that runs on a CPU."""
    return str(request.param)


@pytest.fixture
def int8_backend(cpu_backend: str) -> str:
    """Every backend that runs 8-bit graphs on this CPU."""
    if cpu_backend == "openvino" and machine.lacks_vnni():
        pytest.skip("OpenVINO is refused 8-bit graphs here; exporting/test_int8.py sees to that")
    return cpu_backend


LOGGERS = logging.getLogger(), logging.getLogger("seqpar_deploy")
LEVELS = [logger.level for logger in LOGGERS]


@pytest.fixture(autouse=True)
def logging_is_restored() -> Iterator[None]:
    """Commands that run in this process configure logging; the next test starts without that.

    A fixture of a module may run one before this, so levels are those of the start.
    """
    for logger, level in zip(LOGGERS, LEVELS, strict=True):
        logger.setLevel(level)
    before = [logger.handlers[:] for logger in LOGGERS], warnings.showwarning
    yield
    for logger, handlers in zip(LOGGERS, before[0], strict=True):
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
    warnings.showwarning = before[1]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver on this machine; .ci/system installs them")
    pytest.importorskip("selenium")
    chromium = Browser(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()
