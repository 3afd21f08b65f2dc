"""Convolutional building blocks shared by the stages. Every one of them sees its neighbourhood only.

Normalisation is per pixel, over channels: a statistic over space would make a tile differ from the whole picture.

Shapes: b batch, c channels, h w height and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class PixelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel (Ba et al. 2016), fast in channels_last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(Tensor(channels).fill_(1.0))
        self.bias = nn.Parameter(Tensor(channels).zero_())

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Zero mean and unit variance over c, then scale and shift."""
        x = rearrange(x, "b c h w -> b h w c")
        normed: Tensor = rearrange(F.layer_norm(x, x.shape[-1:], self.weight, self.bias), "b h w c -> b c h w")
        return normed


class ResidualBlock(nn.Module):
    """x + f(x) with f: norm, 3x3, SiLU, 1x1; f starts small, so a deep stack starts near the identity."""

    reach = 1
    """Pixels of its own grid it sees to each side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = PixelNorm(channels)
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_normal_(self.mix.weight)
        self.mix.weight.data.mul_(0.3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Same shape."""
        changed: Tensor = self.mix(F.silu(self.spatial(self.norm(x))))
        return x + changed


def downsample(channels: int, out_channels: int) -> nn.Conv2d:
    """Halve height and width: each 2x2 patch becomes one pixel."""
    return nn.Conv2d(channels, out_channels, 2, stride=2)


def upsample(channels: int, out_channels: int) -> nn.Sequential:
    """Double height and width: a 1x1 convolution on the small grid, then a shuffle of channels into pixels."""
    return nn.Sequential(nn.Conv2d(channels, 4 * out_channels, 1), nn.PixelShuffle(2))
