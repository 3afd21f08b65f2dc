"""Finite scalar quantization: no codebook to learn (Mentzer et al. 2023, arXiv 2309.15505, section 3).

Each of d channels is squashed into a few integer steps; the code is the mixed-radix number of these digits. The rows it
implies stand behind the same interface as a learned codebook.

Shapes: b batch, d channels (= digits), h w height and width of this level, k rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from stages.vqvae.quantized import Quantized
from stages.vqvae.settings import FSQ_STEPS


class FiniteScalarQuantizer(nn.Module):
    """About `rows` codes: the digits are the ones `FSQ_STEPS` gives for this size.

    Raises:
        ValueError: for a size `FSQ_STEPS` does not hold.
    """

    steps: Tensor
    codebook: Tensor

    def __init__(self, rows: int) -> None:
        super().__init__()
        if rows not in FSQ_STEPS:
            raise ValueError(f"fsq has codebooks of {', '.join(map(str, FSQ_STEPS))} rows; got {rows}.")
        steps = FSQ_STEPS[rows]
        self.width, self.rows = len(steps), math.prod(steps)
        self.register_buffer("steps", torch.tensor(steps, dtype=torch.float32), persistent=False)
        digits = torch.cartesian_prod(*[torch.arange(n) for n in steps]).float()
        self.register_buffer("codebook", self._scale(digits), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move between devices, stay fp32: in bf16 the bound would round away and name codes that are not there."""
        return super()._apply(lambda t: t.to(fn(t).device), recurse)  # type: ignore[no-untyped-call]

    def forward(self, features: Float[Tensor, "b d h w"]) -> Quantized:
        """Round to the nearest step; straight-through gradients; nothing to commit to."""
        with torch.autocast(features.device.type, enabled=False):  # bf16 cannot count to 65,536
            bounded = self._bound(rearrange(features, "b d h w -> b h w d").float())
            digits = bounded.round()
            passed = bounded + (digits - bounded).detach()
        return Quantized(
            latents=rearrange(self._scale(passed), "b h w d -> b d h w"),
            codes=self._number(digits),
            loss=features.new_zeros((), dtype=torch.float32),
            before=rearrange(self._scale(bounded), "b h w d -> b d h w"),
        )

    def lookup(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The points these codes name."""
        return rearrange(self.codebook[codes.long()], "b h w d -> b d h w")

    def _bound(self, z: Tensor) -> Tensor:
        """Into (-0.5, n - 0.5) per channel, so that rounding gives n digits, each of the same width."""
        return (self.steps - 2e-3) * torch.sigmoid(2 * z) - (0.5 - 1e-3)

    def _scale(self, digits: Tensor) -> Tensor:
        """Digits to [-1, 1] around 0."""
        return 2 * digits / (self.steps - 1) - 1

    def _number(self, digits: Tensor) -> Tensor:
        weights = self.steps.long().flip(0).cumprod(0).flip(0) // self.steps.long()
        return (digits.nan_to_num().long() * weights).sum(-1)  # a step that is not finite is skipped, not miscounted
