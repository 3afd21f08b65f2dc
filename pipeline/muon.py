"""Muon: momentum whose matrices are made orthogonal before each step, with AdamW for everything else.

A gradient of a matrix is dominated by a few directions; orthogonalised, all of them move alike, which in short runs is
worth half of the steps (docs/log.md). Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural networks");
the scale that lets it share AdamW's learning rate and weight decay is Liu et al. 2025, arXiv 2502.16982, section 2.2.
`torch.optim.Muon` takes matrices only and knows no AdamW beside it: kernels of convolutions are most of our weights.

Shapes: o outputs, i inputs of a matrix; a kernel o i h w counts as o x (i h w).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MOMENTUM = 0.95
POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # Jordan et al.: five rounds bring every singular value into about 0.7 to 1.2
ROUNDS = 5
RMS = 0.2  # of an AdamW step, per learning rate (Liu et al. 2025, section 2.2)


class Muon(torch.optim.AdamW):
    """AdamW, except in the groups with `orthogonal: True`, whose parameters have two dimensions or more."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups; gradients of orthogonal groups are used up."""
        for group in self.param_groups:
            if group.get("orthogonal"):
                for p in group["params"]:
                    if p.grad is not None:
                        self._turn(p, group["lr"], group["weight_decay"])
        return super().step(closure)

    def _turn(self, p: Tensor, lr: float, weight_decay: float) -> None:
        gradient: Tensor = p.grad  # type: ignore[assignment]
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        step = orthogonal(gradient.lerp(momentum, MOMENTUM).flatten(1))
        p.mul_(1 - lr * weight_decay)
        p.add_(step.view_as(p), alpha=-lr * RMS * max(step.shape) ** 0.5)
        p.grad = None  # AdamW leaves alone what has no gradient


def orthogonal(matrix: Float[Tensor, "o i"]) -> Float[Tensor, "o i"]:
    """U V' of its singular value decomposition U S V', nearly: `ROUNDS` of a Newton-Schulz iteration.

    In bf16 on a GPU, as Jordan et al. found sufficient; in fp32 on a CPU, where that is faster.
    """
    a, b, c = POLYNOMIAL
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    turned: Tensor = (x.T if tall else x).to(matrix.dtype)
    return turned
