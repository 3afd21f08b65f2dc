"""The codes of one token drawn one after another: what lets an autoregressive prior fold a finer level.

The trunk says once per token what it knows; a small network then goes through the token's codes, each seeing those
before it (the depth transformer of RQ-Transformer; Lee et al. 2022, arXiv 2203.01941, section 3.2, here over the codes
under one of the coarser level, and without attention, as they are few). Nothing is guessed independently: the product
of the conditionals is the exact likelihood, and the trunk reads a sequence several times shorter.

Shapes: b batch, m tokens, s codes of a token, e width of a code's part, w width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


class DepthHead(nn.Module):
    """From a token, and those of its codes that are known, to what is known of the next one.

    Args:
        width: w.
        slots: s, two or more.
        embedding: codes to vectors of width e = w / s.
    """

    def __init__(self, width: int, slots: int, embedding: nn.Module) -> None:
        super().__init__()
        self.slots = slots
        self.unfold = nn.Linear(width, slots * width)
        self.embedding = embedding
        part = width // slots
        self.seen = nn.ModuleList(nn.Linear(known * part, width, bias=False) for known in range(1, slots))
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width, bias=False)
        for layer in (self.unfold, self.up, self.down):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def apart(self, tokens: Float[Tensor, "b m w"]) -> Float[Tensor, "b m s w"]:
        """What the trunk says of each code of each token."""
        said: Tensor = rearrange(self.unfold(tokens), "b m (s w) -> b m s w", s=self.slots)
        return said

    def next(self, said: Float[Tensor, "b m s w"], known: Int[Tensor, "b m _k"]) -> Float[Tensor, "b m w"]:
        """The vector of code k of each token, its first k codes being known."""
        return self._refined(self._with_known(said, self.embedding(known)))

    def forward(self, tokens: Float[Tensor, "b m w"], codes: Int[Tensor, "b m s"]) -> Float[Tensor, "b m s w"]:
        """The vectors of all codes at once, each knowing those before it: what training asks for."""
        said, parts = self.apart(tokens), self.embedding(codes)
        return self._refined(torch.stack([self._with_known(said, parts[:, :, :k]) for k in range(self.slots)], dim=2))

    def _with_known(self, said: Tensor, known: Float[Tensor, "b m _k e"]) -> Tensor:
        count = known.shape[2]
        x = said[:, :, count]
        return x + self.seen[count - 1](rearrange(known, "b m k e -> b m (k e)")) if count else x

    def _refined(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return result
