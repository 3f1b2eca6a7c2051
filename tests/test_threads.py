"""Every library that chooses its own number of threads keeps to the CPU quota if one is in force."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch

from seqpar_deploy.backends.sessions import OnnxRuntimeSession, OpenVinoSession
from seqpar_deploy.bundle import ENCODER
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint
from seqpar_deploy.resources import data_dir, load_label_set
from seqpar_deploy.video.detect.opencv import import_cv2


@pytest.fixture(autouse=True)
def quota(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A quota of half a core on a machine of four. The test's own process has its threads back afterwards."""
    monkeypatch.setattr("seqpar_deploy.cgroups.cpu_limit", lambda: 0.5)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(4)
    cv2.setNumThreads(4)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.mark.parametrize(("asked", "given"), [(None, 1), (2, 2)])
def test_onnxruntime(bundle_dir: Path, asked: int | None, given: int) -> None:
    session = OnnxRuntimeSession(bundle_dir / ENCODER, threads=asked)
    assert session._session.get_session_options().intra_op_num_threads == given


@pytest.mark.parametrize(("asked", "given"), [(None, 1), (2, 2)])
def test_openvino(bundle_dir: Path, asked: int | None, given: int) -> None:
    session = OpenVinoSession(bundle_dir / ENCODER, threads=asked)
    assert session._compiled.get_property("INFERENCE_NUM_THREADS") == given


def test_pytorch(checkpoint_file: Path) -> None:
    build_model(load_checkpoint(checkpoint_file), load_label_set("pa100k"))
    assert torch.get_num_threads() == 1


def test_opencv() -> None:
    assert import_cv2().getNumThreads() == 1


def test_decoding_video() -> None:
    av = pytest.importorskip("av")
    from seqpar_deploy.video.sources.stream_choice import choose_stream

    with av.open(str(data_dir("samples") / "vtest" / "street.mp4")) as container:
        assert choose_stream(container, dict).codec_context.thread_count == 1
