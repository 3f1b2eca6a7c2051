"""The variants in PyTorch, which share one model's weights. torch is imported when the first is made."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from seqpar_deploy.backends import Backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError
from seqpar_deploy.machine import has_bf16
from seqpar_deploy.modeling.load import export_extra, load_network
from seqpar_deploy.preprocess import prepare_batch

if TYPE_CHECKING:
    import torch

    from seqpar_deploy.modeling.sequencepar import SequencePAR
    from seqpar_deploy.vocab import LabelSet

COMPILE_SECONDS = 600  # a longer compilation could not replace an export


@dataclasses.dataclass(frozen=True, kw_only=True)
class EagerModel:
    """Hold a checkpoint in PyTorch on a device, and its token table (V, d)."""

    model: SequencePAR
    token_table: torch.Tensor
    label_set: LabelSet

    @property
    def device(self) -> str:
        return str(self.token_table.device.type)


def load_model(
    bundle: Bundle,
    checkpoint: Path,
    *,
    encoder: str | None = None,
    decoder_heads: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> EagerModel:
    """Load the checkpoint of a bundle. Raises CheckpointError, or BackendUnavailableError without torch."""
    with export_extra():
        import torch
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("--device must be cpu, since PyTorch finds no GPU, got cuda; leave it out")
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_network(
        checkpoint,
        bundle=bundle,
        encoder=encoder,
        decoder_heads=decoder_heads,
        device=device,
        keep_text_tower=True,  # for `published`
    )
    return EagerModel(model=loaded.network, token_table=loaded.token_table, label_set=loaded.label_set)


def published(eager: EagerModel) -> Backend[Any]:
    """Return the published procedure, unchanged."""
    from seqpar_deploy.modeling.published import PublishedBackend

    return PublishedBackend(eager.model, eager.label_set.phrases, eager.label_set.preprocessing)


def uncached_eager(eager: EagerModel) -> Backend[Any]:
    """Return the network with the text tower folded, without a cache."""
    from seqpar_deploy.modeling.eager import EagerBackend

    return EagerBackend(eager.model, eager.token_table, eager.label_set.preprocessing)


def cached_eager(eager: EagerModel) -> Backend[Any]:
    """Return the network with the text tower folded, with a cache."""
    from seqpar_deploy.modeling.eager import CachedEagerBackend

    return CachedEagerBackend(eager.model, eager.token_table, eager.label_set.preprocessing)


def reduced_precision(device: str) -> str:
    """Return the precision that is faster than FP32 in PyTorch. Raises BackendUnavailableError if there is none."""
    if device == "cuda":
        return "fp16"
    if has_bf16():
        return "bf16"
    raise BackendUnavailableError("bf16 needs a processor with bf16 instructions, which this one lacks")


def reduced_eager(eager: EagerModel) -> Backend[Any]:
    """Return `cached_eager` in `reduced_precision`, with normalisations and logits in float32.

    It copies the weights, which takes half of their memory.
    """
    import torch
    from torch import nn

    from seqpar_deploy.modeling import sequencepar
    from seqpar_deploy.modeling.eager import CachedEagerBackend

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[reduced_precision(eager.device)]
    model = copy.deepcopy(eager.model).to(dtype)
    for norm in [module for module in model.modules() if isinstance(module, nn.LayerNorm)]:
        norm.__class__ = sequencepar.LayerNorm  # open_clip's own computes in the reduced type
        norm.float()
    model.decoder.fc.float()
    return CachedEagerBackend(model, eager.token_table.to(dtype), eager.label_set.preprocessing)


def compiled_eager(eager: EagerModel, bundle: Bundle, *, rows: int) -> Backend[Any]:
    """Return `cached_eager`, compiled by torch.compile for batches of `rows`.

    Raises BackendError if the compilation fails or takes longer than COMPILE_SECONDS.
    """
    import numpy as np

    from seqpar_deploy.decoding import Greedy
    from seqpar_deploy.modeling.compiled import CompiledEagerBackend

    if rows > 1:
        raise BackendError(
            f"torch.compile needs batches of 1 crop, got {rows}, since it would recompile for each batch size; "
            "use --crops 1"
        )
    backend = CompiledEagerBackend(eager.model, eager.token_table, eager.label_set.preprocessing)
    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # it warns about CUDA on machines without a GPU
    grey = np.full((64, 32, 3), 127, dtype=np.uint8)
    crops = prepare_batch([grey], image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)
    try:
        with _time_limit(COMPILE_SECONDS):
            Greedy().generate(backend, backend.encode(crops), max_steps=2)
    except (Exception, _TimeUp) as error:  # the compiler raises many kinds of exceptions
        _stop_compiling()
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"torch.compile failed: {line}") from None
    return backend


def _stop_compiling() -> None:
    """Stop compiler processes, which would disturb the measurements."""
    compiler = sys.modules.get("torch._inductor.async_compile")
    if compiler is not None:
        with contextlib.suppress(Exception):  # not in torch's public API
            compiler.AsyncCompile.pool().shutdown(cancel_futures=True)
            compiler.shutdown_compile_workers()


class _TimeUp(BaseException):
    """Raised at the time limit. It is not an Exception, since the compiler catches many of those and falls back."""


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise _TimeUp in the block after `seconds`, and again each second in case it was caught."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TimeUp(f"compiling took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
