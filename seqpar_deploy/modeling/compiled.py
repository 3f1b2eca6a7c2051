"""The cached network through torch.compile, for benchmarks: the fastest PyTorch variant. It needs a C++ compiler."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqpar_deploy.backends.base import Int64Array, StepOutput
from seqpar_deploy.modeling.eager import CachedEagerBackend, CachedState, continue_sequences, normalise
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.preprocess import Preprocessing


class CompiledEagerBackend(CachedEagerBackend):
    """Run `CachedEagerBackend` compiled, at the first call of each shape. For benchmarks only."""

    name = "eager-compiled"

    def __init__(self, model: SequencePAR, token_table: Tensor, preprocessing: Preprocessing) -> None:
        super().__init__(model, token_table, preprocessing)

        def encode(crops: Tensor) -> Tensor:
            images = normalise(crops, preprocessing)
            return model.decoder.cross_kv(model.encode_image(images))

        def step(tokens: Tensor, cross_kv: Tensor, self_kv: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
            return continue_sequences(model.decoder, tokens, token_table, cross_kv, self_kv, position)

        self._compiled_encode = torch.compile(encode, dynamic=False)
        self._compiled_step = torch.compile(step, dynamic=False)

    @torch.inference_mode()
    def encode(self, crops: npt.NDArray[np.uint8]) -> CachedState:
        cross_kv = self._compiled_encode(torch.from_numpy(crops).to(self._token_table.device))
        pairs, rows, heads, _, head_size = cross_kv.shape
        capacity = self._model.architecture.capacity
        return CachedState(cross_kv.new_zeros(pairs, rows, heads, capacity, head_size), cross_kv)

    @torch.inference_mode()
    def step(self, state: CachedState, tokens: Int64Array) -> StepOutput:
        ids = torch.from_numpy(tokens).to(self._token_table.device)
        log_probs, state.self_kv = self._compiled_step(ids, state.cross_kv, state.self_kv, state.position)
        state.position = state.position + ids.shape[1]
        return StepOutput(log_probs.cpu().numpy(), log_probs.argmax(-1).cpu().numpy())
