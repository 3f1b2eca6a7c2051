"""Networks with random weights, for tests, benchmarks and demonstrations without a trained checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from seqpar_deploy.modeling.architecture import Architecture
from seqpar_deploy.modeling.sequencepar import SequencePAR


def random_model(architecture: Architecture, *, seed: int = 0) -> SequencePAR:
    """Build a SequencePAR with random weights, reproducible from its seed. Its predictions are meaningless.

    A decoder with default initialisation repeats one token for every image, which makes comparisons weak. Here the
    contributions of token, position and image are balanced, so that sequences vary with all three.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SequencePAR(architecture)
        with torch.no_grad():
            nn.init.normal_(model.clip_model.token_embedding.weight, std=2)
            for layer in model.decoder.decoder_layers():
                layer.self_att.attention.fc_o.weight.mul_(0.5)
                layer.enc_att.attention.fc_o.weight.mul_(0.1)
            nn.init.normal_(model.decoder.fc.weight, std=6 * architecture.embed_dim**-0.5)
    return model.eval().requires_grad_(False)
