"""Exponential moving average of a model's weights, kept in fp32 as a frozen copy of the model.

Parameters are averaged; buffers (codebooks and their statistics already follow by EMA) are copied.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode and fp32 that no optimizer ever touches."""
    twin = copy.deepcopy(model).float().eval()
    return twin.requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, weights: Iterable[Tensor], buffers: Iterable[Tensor], decay: float) -> None:
    """Move `average` towards `weights` by 1 - decay, and copy `buffers`."""
    averages: list[Tensor] = list(average.parameters())
    torch._foreach_lerp_(averages, [weight.detach().float() for weight in weights], 1.0 - decay)
    for target, source in zip(average.buffers(), buffers, strict=True):
        target.copy_(source)
