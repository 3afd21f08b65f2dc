"""Attention in windows on the finest level, for images whose codes are too many to attend to each other.

A window of fine codes attends to itself and to the codes of the level above over the same region; the coarser levels
attend among themselves in full. Odd layers shift the windows by half (Swin; Liu et al. 2021), so news travels.

Shapes: b batch, h heads, n tokens of the sequence, m tokens of the coarser levels, d width of a head;
Y x X windows of y x x cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class WindowPlan:
    """Where the two finest levels lie in the sequence, and the side of a window in cells of the finest.

    Raises:
        ValueError: the window does not tile both grids, shifted by half too.
    """

    fine: tuple[int, int]
    above: tuple[int, int]
    num_coarser: int
    side: int

    def __post_init__(self) -> None:
        ratio = self.fine[0] // self.above[0]
        if self.side % (2 * ratio) or any(side % self.side for side in self.fine):
            raise ValueError(
                f"window must be a multiple of {2 * ratio} that divides the finest grid {self.fine}; got {self.side}."
            )

    @property
    def side_above(self) -> int:
        """Side of the same window in cells of the level above."""
        return self.side * self.above[0] // self.fine[0]


def _cut(x: Tensor, grid: tuple[int, int], side: int, shift: int) -> Tensor:
    """Tokens of one level -> (b, h, windows, cells of a window, d)."""
    x = rearrange(x, "b h (r c) d -> b h r c d", r=grid[0])
    if shift:
        x = torch.roll(x, (-shift, -shift), dims=(2, 3))  # wraps round: positions tell the two edges apart
    return rearrange(x, "b h (Y y) (X x) d -> b h (Y X) (y x) d", y=side, x=side)


def _join(x: Tensor, grid: tuple[int, int], side: int, shift: int) -> Tensor:
    """The inverse of `_cut`."""
    x = rearrange(x, "b h (Y X) (y x) d -> b h (Y y) (X x) d", y=side, Y=grid[0] // side)
    if shift:
        x = torch.roll(x, (shift, shift), dims=(2, 3))
    return rearrange(x, "b h r c d -> b h (r c) d")


def _per_window(x: Tensor) -> Tensor:
    return rearrange(x, "b h W n d -> (b W) h n d")


def windowed_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b h n d"],
    v: Float[Tensor, "b h n d"],
    plan: WindowPlan,
    *,
    shifted: bool,
) -> Float[Tensor, "b h n d"]:
    """Full attention among the coarser tokens, windows on the finest level."""
    m = plan.num_coarser
    coarser = F.scaled_dot_product_attention(q[:, :, :m], k[:, :, :m], v[:, :, :m])
    first = m - plan.above[0] * plan.above[1]
    shift, shift_above = (plan.side // 2, plan.side_above // 2) if shifted else (0, 0)

    def around(x: Tensor) -> Tensor:
        above = _cut(x[:, :, first:m], plan.above, plan.side_above, shift_above)
        return torch.cat([above, _cut(x[:, :, m:], plan.fine, plan.side, shift)], dim=3)

    fine = F.scaled_dot_product_attention(
        _per_window(_cut(q[:, :, m:], plan.fine, plan.side, shift)), _per_window(around(k)), _per_window(around(v))
    )
    windows = (plan.fine[0] // plan.side) * (plan.fine[1] // plan.side)  # not told by b, which may be 0: nobody's turn
    fine = rearrange(fine, "(b W) h n d -> b h W n d", W=windows)
    return torch.cat([coarser, _join(fine, plan.fine, plan.side, shift)], dim=2)
