"""The bottleneck: the only difference between an autoencoder, a VAE, a VQ-VAE and a VQ-VAE-2.

Shapes: b batch, d code width, h w height and width of this level.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stages.vqvae.fsq import FiniteScalarQuantizer
from stages.vqvae.quantized import Quantized
from stages.vqvae.quantizer import VectorQuantizer
from stages.vqvae.settings import CodebookSettings


class Identity(nn.Module):
    """No bottleneck but the width: a plain autoencoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features: Float[Tensor, "b d h w"]) -> Quantized:
        """The features as they are."""
        return Quantized(features, None, features.new_zeros((), dtype=torch.float32), features)


class Gaussian(nn.Module):
    """A diagonal Gaussian per position (VAE, Kingma and Welling 2014, appendix B). Takes mean and log variance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(
        self, features: Float[Tensor, "b two_d h w"], noise: Float[Tensor, "b d h w"] | None = None
    ) -> Quantized:
        """Mean plus noise times the standard deviation; the mean alone without noise. The loss is the KL per value."""
        mean, log_variance = features.float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-20.0, 10.0)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        sampled = mean if noise is None else mean + (0.5 * log_variance).exp() * noise
        return Quantized(sampled, None, kl, mean)


Bottleneck = Identity | Gaussian | VectorQuantizer | FiniteScalarQuantizer


def make_bottleneck(kind: str, rows: int, width: int, settings: CodebookSettings) -> Bottleneck:
    """One level's bottleneck; `rows` and `settings` matter where there is a codebook, `width` not for `fsq`."""
    if kind == "vq":
        return VectorQuantizer(rows, width, settings)
    if kind == "fsq":
        return FiniteScalarQuantizer(rows)
    return Gaussian(width) if kind == "gaussian" else Identity(width)
