"""Nearest codebook row, without ever holding all distances. Training, extraction and sampling share this one function.

Shapes: n vectors, d code width, k codebook rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

SCORES = 2**19
"""Scores held at once on a CPU: 2 MiB stay in its cache. 1,024 vectors at k = 512, 64 at k = 8,192."""
SCORES_GPU = 2**25
"""Scores held at once on a GPU: large enough to fill it."""


@torch.no_grad()
def nearest(vectors: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """Index of the row with the smallest euclidean distance; of equal rows the first.

    argmin |v - e|^2 = argmax v.e - |e|^2 / 2. Always fp32: autocast would round the products to bf16 and change codes.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        codebook = codebook.float()
        half_norms = codebook.square().sum(1).mul_(-0.5)
        codes = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
        rows = max(16, (SCORES_GPU if vectors.is_cuda else SCORES) // len(codebook))
        scores = torch.empty(min(rows, len(vectors)), len(codebook), device=vectors.device)
        best = torch.empty(len(scores), device=vectors.device)
        for start in range(0, len(vectors), rows):
            chunk = vectors[start : start + rows].float()
            part = torch.addmm(half_norms, chunk, codebook.T, out=scores[: len(chunk)])
            # max(dim) gives the index too, and is several times faster than argmin on a CPU
            torch.max(part, dim=1, out=(best[: len(chunk)], codes[start : start + rows]))
    return codes
