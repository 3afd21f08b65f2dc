"""An image condition inside a model: the codes of a source picture, at every place of the grids and as a whole.

The condition itself is plain numbers (`image_condition`): the codes of all levels behind one another. `SourceCodes`
embeds them: tokens of the coarsest level for cross-attention, their mean as the pooled vector, and for every code of
every level what the source shows around that place.

Shapes: b batch, n codes of one level, N codes of all levels, e width of one code's part, w width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stages.conditioning.condition import Condition

INNER = 48
EMBEDDING_STD = 0.2


def image_condition(codes: Sequence[Int[Tensor, "b _n"]], present: Bool[Tensor, " b"]) -> Condition:
    """Codes (b, n) per level, coarsest first, as a condition of N tokens of one number each."""
    together = torch.cat(list(codes), dim=1)
    tokens = rearrange(together, "b n -> b n 1")
    return Condition(tokens, torch.zeros_like(tokens[:, 0]), present[:, None].expand(-1, together.shape[1]))


class SourceCodes(nn.Module):
    """Embeds the codes of a source picture.

    Args:
        grids, codebook_sizes: of the levels, coarsest first.
        part_widths: e per level, what a code of the model's sequence is wide.
        width: w.
        with_tokens: whether the model cross-attends.
    """

    def __init__(
        self,
        grids: Sequence[tuple[int, int]],
        codebook_sizes: Sequence[int],
        part_widths: Sequence[int],
        width: int,
        *,
        with_tokens: bool,
    ) -> None:
        super().__init__()
        self.grids, self.sizes = list(grids), [h * w for h, w in grids]
        self.around = nn.ModuleList(_Around(size, part) for size, part in zip(codebook_sizes, part_widths, strict=True))
        self.coarse = nn.Embedding(codebook_sizes[0], width)
        nn.init.normal_(self.coarse.weight, std=EMBEDDING_STD)
        self.null_pooled = nn.Parameter(torch.randn(width) * 0.02)
        self.pooled = nn.Linear(width, width)
        if with_tokens:
            self.places = nn.Parameter(torch.randn(self.sizes[0], width) * EMBEDDING_STD)
            self.null_token = nn.Parameter(torch.randn(width) * 0.02)
        self.with_tokens = with_tokens

    def forward(self, condition: Condition, here: Bool[Tensor, " b"]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, n, w) of the coarsest level, pooled (b, w) and mask (b, n); nulls in rows that are not `here`."""
        coarse = self.coarse(self._codes(condition)[0])
        pooled = torch.where(here[:, None], self.pooled(coarse.mean(dim=1)), self.null_pooled)
        if not self.with_tokens:
            return pooled[:, None][:, :0], pooled, here[:, None][:, :0]
        tokens = torch.where(here[:, None, None], coarse, self.null_token) + self.places
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        return tokens, pooled, here[:, None] | first

    def in_place(self, condition: Condition, here: Bool[Tensor, " b"]) -> list[Float[Tensor, "b _n _e"]]:
        """Per level what the source shows at the place of each code; a learned null in rows that are not `here`."""
        parts = zip(self.around, self._codes(condition), self.grids, strict=True)
        return [around(rearrange(c, "b (h w) -> b h w", h=h), here) for around, c, (h, _) in parts]

    def _codes(self, condition: Condition) -> list[Tensor]:
        return list(torch.split(condition.tokens[..., 0].long(), self.sizes, dim=1))


class _Around(nn.Module):
    """A code and its neighbours, two cells far, as one vector per cell."""

    def __init__(self, size: int, part: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, INNER)
        self.near = nn.Conv2d(INNER, INNER, 3, padding=1)
        self.far = nn.Conv2d(INNER, part, 3, padding=1)
        self.null = nn.Parameter(torch.randn(part) * 0.02)

    def forward(self, codes: Int[Tensor, "b h w"], here: Bool[Tensor, " b"]) -> Float[Tensor, "b n e"]:
        x = rearrange(self.embedding(codes), "b h w c -> b c h w")
        x = x + nn.functional.silu(self.near(x))
        seen = rearrange(self.far(x), "b e h w -> b (h w) e")
        return torch.where(here[:, None, None], seen, self.null)
