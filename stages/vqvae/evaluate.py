"""The figures of an autoencoder over a pass of pictures: how near it comes, and which codes it uses.

Shapes: b batch, H W image, h w height and width of a level, k codebook rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.backend import Backend
from stages.images import picture_to_tensor
from stages.vqvae.model import Autoencoder

PAINTED = 8
"""Pictures in a row of `paint`."""


@torch.no_grad()
def figures_on(model: Autoencoder, batches: Iterable[dict[str, Any]], backend: Backend) -> dict[str, float]:
    """Figures over this and all other ranks' batches of `image` (uint8 b 3 H W).

    Returns:
        `psnr` (mean over pictures, dB), `mse` (on [-1, 1]), `top_psnr` with several levels; per level `level<i>_usage`
        (share of rows used at least once), `level<i>_perplexity`; `bits_per_image` (as stored: log2 k per code).
    """
    sums = torch.zeros(4, dtype=torch.float64, device=backend.device)  # pictures, squared error, PSNR, top PSNR
    counts = [torch.zeros(k, dtype=torch.float64, device=backend.device) for k in model.codebook_sizes]
    several = len(model.levels) > 1
    for batch in batches:
        images = picture_to_tensor(batch["image"].to(backend.device))
        with backend.autocast():
            output = model(images, top_every=1 if several else 0)
        error = squared_error(output.images, images)
        top = squared_error(output.top_images, images) if output.top_images is not None else error
        sums += torch.stack([torch.ones_like(error), error, decibel(error), decibel(top)]).sum(1).double()
        for count, level in zip(counts, output.levels, strict=False):
            assert level.codes is not None
            count.add_(torch.bincount(level.codes.flatten(), minlength=len(count)))
    for tensor in (sums, *counts):
        backend.all_reduce_sum(tensor)
    n = max(1.0, float(sums[0]))
    figures = {"psnr": float(sums[2]) / n, "mse": float(sums[1]) / n}
    if several:
        figures["top_psnr"] = float(sums[3]) / n
    for i, count in enumerate(counts):
        figures |= {f"level{i}_{name}": value for name, value in use_of(count).items()}
    if counts:
        bits = [float(c.sum()) / n * math.log2(len(c)) for c in counts]
        figures["bits_per_image"] = sum(bits)
    return figures


def use_of(counts: Float[Tensor, " k"]) -> dict[str, float]:
    """`usage`: share of rows that occur. `perplexity`: number of equally likely rows with the same entropy."""
    shares = counts / counts.sum().clamp(min=1)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return {"usage": float((counts > 0).double().mean()), "perplexity": float(entropy.exp())}


def squared_error(output: Float[Tensor, "b 3 H W"], target: Float[Tensor, "b 3 H W"]) -> Float[Tensor, " b"]:
    """Mean squared error per picture, of values as a file would hold them: cut off at -1 and 1."""
    return (output.float().clamp(-1, 1) - target).square().mean(dim=(1, 2, 3))


def decibel(error: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """PSNR of pictures in [-1, 1] from their mean squared error."""
    return 10 * torch.log10(4 / error.clamp(min=1e-10))
