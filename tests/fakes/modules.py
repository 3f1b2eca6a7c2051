"""A backend that runs the torch modules of the graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from seqpar_deploy.backends.base import StepOutput
from seqpar_deploy.backends.host import HostBackend, HostState
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.exporting.graphs import DecoderStepGraph, EncoderGraph, uint8_to_images
from seqpar_deploy.modeling.sequencepar import SequencePAR
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.vocab import BOS


class ModuleBackend(HostBackend):
    """The two graphs of a bundle as the torch modules they are exported from: what is planted there is exported."""

    name, device = "modules", "cpu"

    def __init__(self, bundle: Bundle, model: SequencePAR) -> None:
        super().__init__(bundle)
        with torch.inference_mode():
            table = model.token_table(bundle.label_set.phrases).clone()
        self.encoder: Callable[..., Any] = EncoderGraph(model, uint8_to_images(bundle.preprocessing))
        self.decoder_step: Callable[..., Any] = DecoderStepGraph(model, table)

    @torch.inference_mode()
    def _run_encoder(self, crops: Crop) -> Any:
        return tuple(output.numpy() for output in self.encoder(torch.from_numpy(crops)))

    @torch.inference_mode()
    def _run_decoder_step(self, *inputs: Any) -> Any:
        return tuple(output.numpy() for output in self.decoder_step(*(torch.from_numpy(array) for array in inputs)))


class OnDevice(ModuleBackend):
    """Decodes greedily by itself, as backends of devices do, and returns its log-probabilities rolled along an axis."""

    def __init__(self, bundle: Bundle, model: SequencePAR, axis: int = 0, by: int = 0) -> None:
        super().__init__(bundle, model)
        self.axis, self.by = axis, by

    def greedy(self, state: HostState, *, stop: int, max_steps: int) -> StepOutput:
        tokens, outputs = np.full(len(state.lengths), BOS), []
        for _ in range(max_steps):
            outputs.append(self.step(state, tokens[:, None]))
            tokens = outputs[-1].next_token[:, 0]
        log_probs = np.concatenate([output.log_probs for output in outputs], axis=1)
        next_token = np.concatenate([output.next_token for output in outputs], axis=1)
        return StepOutput(np.roll(log_probs, self.by, axis=self.axis), next_token)
