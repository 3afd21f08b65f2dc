"""What codes look like, for a prior that would else know them as numbers only.

The rows of a tokenizer's codebook lie near one another where their patches look alike. A table of a prior is the sum of
free rows and of a projection of smooth functions of the codebook's rows, so what is learned of one code is learned, in
part, of all that look like it. The projection starts the free rows' work rather than replacing it.

Shapes: k codebook rows, d width of a row, f features of a row, e width of the table.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

FREQUENCIES = 48
BANDWIDTH = 2.0
"""Of the random features: two rows that have nothing in common differ by about so many radians times 2 ** 0.5."""


class Looks(nn.Module):
    """What the codes of one level look like, kept with the weights; nothing until told."""

    features: Tensor

    def __init__(self, size: int, code_width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, code_width + 2 * FREQUENCIES))

    def know(self, codebook: Float[Tensor, "k d"]) -> None:
        """See the rows of a codebook."""
        self.features.copy_(features_of(codebook))


def features_of(codebook: Float[Tensor, "k d"]) -> Float[Tensor, "k f"]:
    """A codebook's rows, scaled to variance 1, and random Fourier features of them (Rahimi & Recht 2007)."""
    rows = codebook.float().cpu()
    rows = (rows - rows.mean(dim=0)) / rows.std(dim=0, correction=0).clamp(min=1e-6)
    width = rows.shape[1]
    turns = torch.randn(width, FREQUENCIES, generator=torch.Generator().manual_seed(1)) * BANDWIDTH * width**-0.5
    angles = rows @ turns
    return torch.cat([rows, 2**0.5 * angles.cos(), 2**0.5 * angles.sin()], dim=1)


class CodeTable(nn.Module):
    """Free rows and what they have in common by their looks.

    Args:
        free: the rows as an embedding or a linear layer of width e; of as many rows as codes, or with one more behind
            them, for a code that is not shown and looks like nothing.
        looks: of the codes; it belongs to the model, not to its tables.
        std: of what the looks say at the start; the free rows say half as much.
    """

    def __init__(self, free: nn.Embedding | nn.Linear, looks: Looks, *, std: float) -> None:
        super().__init__()
        self.looks = (looks,)  # no submodule: every table of a level reads the same
        count = looks.features.shape[1]
        self.free, self.project = free, nn.Linear(count, free.weight.shape[1], bias=False)
        nn.init.normal_(free.weight, std=std / 2)
        nn.init.normal_(self.project.weight, std=std * count**-0.5)
        self.settled: Tensor | None = None

    def settle(self) -> None:
        """Work the table out once: its weights will not change any more, nor its device."""
        self.settled = self.rows().detach()

    def rows(self) -> Float[Tensor, "k e"]:
        """The whole table."""
        if self.settled is not None:
            return self.settled
        common = self.project(self.looks[0].features)
        return self.free.weight + F.pad(common, (0, 0, 0, len(self.free.weight) - len(common)))


class CodeEmbedding(CodeTable):
    """Codes to vectors; the last row stands for a hidden code."""

    def __init__(self, width: int, looks: Looks, *, std: float) -> None:
        super().__init__(nn.Embedding(len(looks.features) + 1, width), looks, std=std)

    def forward(self, codes: Int[Tensor, ...]) -> Float[Tensor, "... e"]:
        return F.embedding(codes, self.rows())


class CodeHead(CodeTable):
    """Vectors to logits."""

    def __init__(self, width: int, looks: Looks, *, std: float) -> None:
        super().__init__(nn.Linear(width, len(looks.features), bias=False), looks, std=std)
        self.bias = nn.Parameter(torch.zeros(len(looks.features)))

    def forward(self, x: Float[Tensor, "... e"]) -> Float[Tensor, "... k"]:
        return F.linear(x, self.rows(), self.bias)
