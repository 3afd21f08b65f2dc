"""Fold the codes of a finer level into one token per code of the level above: a sequence several times shorter.

Two levels of 64 and 256 codes are 128 tokens instead of 320. A masked prior guesses codes of one token that are hidden
together independently, as all codes of a parallel step are; an autoregressive one draws them in turn (`DepthHead`).

Shapes: b batch, H W codes of a level, h w tokens of it, y x codes of a token down and across, e width of a code's part.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Fold:
    """How the codes of one level become tokens; 1 x 1 leaves them as they are."""

    tokens: tuple[int, int]
    """h and w."""
    y: int = 1
    x: int = 1

    @property
    def slots(self) -> int:
        """Codes in a token."""
        return self.y * self.x

    @property
    def count(self) -> int:
        """Tokens of the level."""
        return self.tokens[0] * self.tokens[1]

    def part_width(self, width: int) -> int:
        """e, of which the codes of a token together make the width of a token; ValueError where it does not split."""
        if width % self.slots:
            raise ValueError(f"width {width} does not split into {self.slots} codes of a token. Set fold: false.")
        return width // self.slots

    def places(self) -> Int[Tensor, "m s"]:
        """For every token the places of its codes in raster order."""
        h, w = self.tokens
        places = torch.arange(self.count * self.slots)
        return rearrange(places, "(h y w x) -> (h w) (y x)", h=h, w=w, y=self.y, x=self.x)

    def gather(self, parts: Float[Tensor, "b n e"]) -> Float[Tensor, "b m se"]:
        """Side by side, the parts of each token's codes."""
        h, w = self.tokens
        together: Tensor = rearrange(parts, "b (h y w x) e -> b (h w) (y x e)", h=h, w=w, y=self.y, x=self.x)
        return together

    def spread(self, tokens: Float[Tensor, "b m se"]) -> Float[Tensor, "b n e"]:
        """The inverse of `gather`."""
        h, w = self.tokens
        apart: Tensor = rearrange(tokens, "b (h w) (y x e) -> b (h y w x) e", h=h, w=w, y=self.y, x=self.x)
        return apart


def folds_of(grids: Sequence[tuple[int, int]], *, fold: bool) -> list[Fold]:
    """The fold of every level, coarsest first: each finer level onto the grid above it, or none at all."""
    folds = [Fold(grids[0])]
    for above, grid in itertools.pairwise(grids):
        folds.append(Fold(above, grid[0] // above[0], grid[1] // above[1]) if fold else Fold(grid))
    return folds
