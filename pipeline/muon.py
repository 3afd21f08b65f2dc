"""Muon: momentum whose matrices are made orthogonal before each step, with AdamW for everything else.

A gradient of a matrix is dominated by a few directions; orthogonalised, all of them move alike, which in short runs is
worth half of the steps (docs/log.md). Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural networks");
the scale that lets it share AdamW's learning rate and weight decay is Liu et al. 2025, arXiv 2502.16982, section 2.2.
`torch.optim.Muon` takes matrices only and knows no AdamW beside it: kernels of convolutions are most of our weights.

Matrices of one shape turn together: one product of a stack instead of many small ones, of which a GPU feels each.

Shapes: o outputs, i inputs of a matrix; a kernel o i h w counts as o x (i h w); n matrices of one shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
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
                self._turn([p for p in group["params"] if p.grad is not None], group["lr"], group["weight_decay"])
        return super().step(closure)

    def _turn(self, weights: list[Tensor], lr: float, weight_decay: float) -> None:
        if not weights:
            return
        gradients: list[Tensor] = [p.grad for p in weights]  # type: ignore[misc]
        for p in weights:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        torch._foreach_lerp_(gradients, momenta, MOMENTUM)
        steps = orthogonal([gradient.flatten(1) for gradient in gradients])
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        torch._foreach_mul_(steps, [-lr * RMS * max(step.shape) ** 0.5 for step in steps])
        torch._foreach_add_(weights, [step.view_as(p) for step, p in zip(steps, weights, strict=True)])
        for p in weights:
            p.grad = None  # AdamW leaves alone what has no gradient


def orthogonal(matrices: Sequence[Float[Tensor, "_o _i"]]) -> list[Float[Tensor, "_o _i"]]:
    """Of each matrix U V' of its singular value decomposition U S V', nearly: `ROUNDS` of a Newton-Schulz iteration.

    In bf16 on a GPU, as Jordan et al. found sufficient; in fp32 on a CPU, where that is faster. Nothing of a matrix
    depends on which others come with it.
    """
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    alike = defaultdict(list)
    for i, matrix in enumerate(wide):
        alike[matrix.shape, matrix.dtype, matrix.device].append(i)
    turned = list(matrices)
    for places in alike.values():
        stack = _iterated(torch.stack([wide[i] for i in places])).to(wide[places[0]].dtype)
        for i, one in zip(places, stack, strict=True):
            turned[i] = (one.T if wide[i] is not matrices[i] else one).contiguous()
    return turned


def _iterated(x: Float[Tensor, "n o i"]) -> Float[Tensor, "n o i"]:
    a, b, c = POLYNOMIAL
    x = x.bfloat16() if x.is_cuda else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x
