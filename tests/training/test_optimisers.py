"""Muon without bf16 products does what Muon with them does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from seqpar_deploy.training import optimisers
from seqpar_deploy.training.optimisers import make_optimisers
from seqpar_deploy.training.recipe import Optimiser


def one_step(monkeypatch: pytest.MonkeyPatch, *, bf16: bool) -> tuple[nn.Linear, set[torch.dtype]]:
    """A layer after a step, and in which types its matrices were multiplied."""
    multiplied: set[torch.dtype] = set()

    class Listens(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
                multiplied.add(args[1].dtype)
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(optimisers, "has_bf16", lambda: bf16)
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=False)
    (made,) = make_optimisers(layer, Optimiser(muon=0.02))
    for group in made.param_groups:
        group["lr"] = group["full_rate"]
    layer.weight.grad = torch.randn_like(layer.weight)
    with Listens():
        made.step()
    return layer, multiplied


def test_float32_products_change_a_step_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    (quick, with_bf16), (wide, without) = (one_step(monkeypatch, bf16=bf16) for bf16 in (True, False))
    assert (with_bf16, without) == ({torch.bfloat16}, {torch.float32})
    torch.manual_seed(0)
    start = nn.Linear(24, 40, bias=False)
    step = (quick.weight - start.weight).norm()
    assert step > 0.01
    assert (wide.weight - quick.weight).norm() < 0.01 * step
