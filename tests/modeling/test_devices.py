"""The network on another device than the CPU: torch computes shapes and devices of tensors that are not there."""

from __future__ import annotations

import torch
from conftest import tiny_architecture
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from seqpar_deploy.modeling.eager import continue_sequences, normalise
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.preprocess import Preprocessing
from seqpar_deploy.vocab import LabelSet


def test_everything_is_computed_where_the_weights_are(label_set: LabelSet) -> None:
    """A tensor made on the CPU on the way would meet one on the GPU, which torch refuses."""
    model = random_model(tiny_architecture(len(label_set)))
    architecture = model.architecture
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        for module in model.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(on_gpu(weight), requires_grad=False))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, on_gpu(buffer))
        table = model.token_table(label_set.phrases)
        size = architecture.image_size
        images = normalise(torch.empty(2, size, size, 3, dtype=torch.uint8, device="cuda"), Preprocessing())
        cross_kv = model.decoder.cross_kv(model.encode_image(images))
        pairs, rows, heads, _, head_size = cross_kv.shape
        tokens, position = (torch.zeros(2, *more, dtype=torch.int64, device="cuda") for more in ((5,), ()))
        self_kv = cross_kv.new_zeros(pairs, rows, heads, architecture.capacity, head_size)
        uncached, _ = model.decoder(tokens, table[tokens], cross_kv)
        cached, self_kv = continue_sequences(model.decoder, tokens, table, cross_kv, self_kv, position)
    assert {value.device.type for value in (table, cross_kv, uncached, cached, self_kv)} == {"cuda"}


def on_gpu(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device="cuda")
