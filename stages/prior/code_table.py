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
BANDWIDTH = 0.7  # of the random features, on rows of unit variance per axis


def features_of(codebook: Float[Tensor, "k d"]) -> Float[Tensor, "k f"]:
    """A codebook's rows, scaled to variance 1, and random Fourier features of them (Rahimi & Recht 2007)."""
    rows = codebook.float()
    rows = (rows - rows.mean(dim=0)) / rows.std(dim=0).clamp(min=1e-6)
    turns = torch.randn(rows.shape[1], FREQUENCIES, generator=torch.Generator().manual_seed(1)) * BANDWIDTH
    angles = rows.cpu() @ turns
    return torch.cat([rows.cpu(), 2**0.5 * angles.cos(), 2**0.5 * angles.sin()], dim=1).to(codebook.device)


class CodeTable(nn.Module):
    """Free rows and what they have in common by their looks.

    Args:
        free: the rows as an embedding or a linear layer of width e; of as many rows as codes, or with one more behind
            them, for a code that is not shown and looks like nothing.
        code_width: d.
        std: of the rows at the start, half of it their own.
    """

    features: Tensor

    def __init__(self, free: nn.Embedding | nn.Linear, code_width: int, *, std: float) -> None:
        super().__init__()
        rows, width = free.weight.shape
        count = code_width + 2 * FREQUENCIES
        self.free, self.project = free, nn.Linear(count, width, bias=False)
        nn.init.normal_(free.weight, std=std / 2)
        nn.init.normal_(self.project.weight, std=std * count**-0.5)
        self.register_buffer("features", torch.zeros(rows, count), persistent=False)

    def know(self, codebook: Float[Tensor, "k d"]) -> None:
        """See what the codes look like."""
        self.features[: len(codebook)].copy_(features_of(codebook))

    def rows(self) -> Float[Tensor, "k e"]:
        """The whole table."""
        table: Tensor = self.free.weight + self.project(self.features)
        return table


class CodeEmbedding(CodeTable):
    """Codes to vectors; the last row stands for a hidden code."""

    def __init__(self, size: int, width: int, code_width: int, *, std: float) -> None:
        super().__init__(nn.Embedding(size + 1, width), code_width, std=std)

    def forward(self, codes: Int[Tensor, ...]) -> Float[Tensor, "... e"]:
        return F.embedding(codes, self.rows())


class CodeHead(CodeTable):
    """Vectors to logits."""

    def __init__(self, size: int, width: int, code_width: int, *, std: float) -> None:
        super().__init__(nn.Linear(width, size, bias=False), code_width, std=std)
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Float[Tensor, "... e"]) -> Float[Tensor, "... k"]:
        return F.linear(x, self.rows(), self.bias)
