"""The parts of a prior that belong to one level: tables of codes and places, heads, what unfolds a token.

Shapes: n cells of a grid.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor, nn

from stages.prior.code_table import CodeEmbedding, CodeHead, Looks
from stages.prior.depth_head import DepthHead

EMBEDDING_STD = 0.2  # of the size of what the first layers add: a tenth of it learned half as fast
HEAD_STD = 0.02


def all_cells(h: int, w: int) -> Int[Tensor, "n 2"]:
    """Row and column of every cell of a grid, in raster order."""
    return torch.cartesian_prod(torch.arange(h), torch.arange(w)).view(-1, 2)


def of_codes(size: int, width: int, looks: Looks | None) -> nn.Module:
    """Codes to vectors; the last row stands for a hidden code."""
    if looks is not None:
        return CodeEmbedding(width, looks, std=EMBEDDING_STD)
    return embedding(size + 1, width)


def embedding(rows: int, width: int) -> nn.Embedding:
    """A table of so many learned vectors."""
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=EMBEDDING_STD)
    return table


def make_head(width: int, size: int, looks: Looks | None) -> nn.Module:
    """From a vector to the logits of a level's codes."""
    if looks is not None:
        return CodeHead(width, looks, std=HEAD_STD)
    plain = nn.Linear(width, size)
    nn.init.normal_(plain.weight, std=HEAD_STD)
    return plain


def make_unfold(kind: str, width: int, slots: int, size: int, looks: Looks | None) -> nn.Module:
    """From a token to a vector per code of it."""
    if slots == 1:
        return nn.Identity()
    if kind == "autoregressive":
        return DepthHead(width, slots, of_codes(size, width // slots, looks))
    layer = nn.Linear(width, slots * width)
    nn.init.normal_(layer.weight, std=width**-0.5)
    return layer
