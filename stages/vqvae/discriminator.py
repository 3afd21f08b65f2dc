"""Patch discriminator (Isola et al. 2017, arXiv 1611.07004, section 3.2.2): one logit per patch, real or rebuilt.

Shapes: b batch, c channels, H W image, h w grid of patches.
"""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from stages.layers import PixelNorm


class PatchDiscriminator(nn.Module):
    """Sees 38 x 38 pixels per logit, on a grid 8 times coarser than the picture.

    No statistics over the batch or over space: two forward passes before one backward, a tile or a whole picture, are
    all the same to it.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        widths = [channels, 2 * channels, 4 * channels]
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1), nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, stride=2, padding=1), PixelNorm(b), nn.LeakyReLU(0.2))
            for a, b in pairwise(widths)
        )
        self.logit = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> tuple[Float[Tensor, "b 1 h w"], list[Tensor]]:
        """Logits (large = real) and the feature maps b c h w before them, finest first."""
        x = self.enter(images)
        features = [x]
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return self.logit(x), features
