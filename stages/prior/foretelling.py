"""What all conditions say together, at every place: one vector projected and reshaped to a grid, and codes foretold.

A modulation is the same at every place, so "the left bird is red" has to be worked out anew from places and vector in
the layers above; a generator begins with a grid made from its vector instead (DCGAN's "project and reshape"; Radford
et al. 2016, arXiv 1511.06434, figure 1). Through a few channels on a grid of at most `SIDE` x `SIDE`, since that much
decides what stands where.

Codes are asked of it past the transformer (deep supervision; Lee et al. 2015, arXiv 1409.5185): to a prior that sees
the codes before, which of two colours is left is worth one bit a picture, and ours had not learned it after 250,000 of
them (docs/log.md, 2026-11-26 (fifth)).

Shapes: b batch, w width of the model, N tokens of all levels, n codes of the coarsest level, k its codebook rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from stages.prior.level_parts import EMBEDDING_STD

SIDE = 8
CHANNELS = 64


class Projection(nn.Module):
    """A vector as what it says at the place of every token.

    Args:
        width: w.
        grids: rows and columns of tokens of every level, coarsest first; each a multiple of the one before. A side
            without a divisor up to `SIDE` is told one thing along it.
    """

    def __init__(self, width: int, grids: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.grids = list(grids)
        self.rows, self.columns = (_divisor(side) for side in self.grids[0])
        self.reshaped = nn.Linear(width, CHANNELS * self.rows * self.columns)
        self.levels = nn.ModuleList(nn.Linear(CHANNELS, width) for _ in self.grids)
        nn.init.normal_(self.reshaped.weight, std=width**-0.5)
        nn.init.zeros_(self.reshaped.bias)
        for level in self.levels:
            assert isinstance(level, nn.Linear)
            nn.init.normal_(level.weight, std=EMBEDDING_STD * CHANNELS**-0.5)
            nn.init.zeros_(level.bias)

    def forward(self, vector: Float[Tensor, "b w"]) -> Float[Tensor, "b N w"]:
        """The tokens of all levels behind one another."""
        cells = F.silu(rearrange(self.reshaped(vector), "b (h w c) -> b h w c", h=self.rows, w=self.columns))
        of_levels = []
        for level, (h, w) in zip(self.levels, self.grids, strict=True):
            spread = repeat(level(cells), "b h w c -> b (h y) (w x) c", y=h // self.rows, x=w // self.columns)
            of_levels.append(rearrange(spread, "b h w c -> b (h w) c"))
        return torch.cat(of_levels, dim=1)


class Foretelling(nn.Module):
    """The coarsest codes by what the conditions say in place, and how far a prior trusts it.

    Args:
        width: w.
        grids: as of `Projection`.
        head: from vectors of the model's width to logits of the coarsest codes.
    """

    def __init__(self, width: int, grids: Sequence[tuple[int, int]], head: nn.Module) -> None:
        super().__init__()
        self.projection = Projection(width, grids)
        self.head = head
        self.trust = nn.Linear(width, 1)
        nn.init.zeros_(self.trust.weight)
        nn.init.zeros_(self.trust.bias)

    def forward(self, vectors: Float[Tensor, "... w"]) -> Float[Tensor, "... k"]:
        """Logits of codes by a vector for each."""
        logits: Tensor = self.head(vectors).float()
        return logits

    def trusted(self, x: Float[Tensor, "... w"], vectors: Float[Tensor, "... w"]) -> Float[Tensor, "... k"]:
        """What a prior that is at `x` adds to its logits: they teach it how far to trust, and nothing to foretell."""
        with torch.no_grad():
            foretold = self(vectors)
        trusted: Tensor = self.trust(x).float() * foretold
        return trusted


def _divisor(side: int) -> int:
    """The largest divisor of a side that is at most `SIDE`: each cell then covers as many tokens."""
    return next(cells for cells in range(min(side, SIDE), 0, -1) if side % cells == 0)
