"""The encoder: from pixels to a feature map at every level's factor, by residual blocks and halvings.

Shapes: b batch, c channels of a level, H W image, h w height and width of a level.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from stages.layers import ResidualBlock, downsample


def width_at(factor: int, channels: int) -> int:
    """Channels of the feature maps at this downsampling factor: doubled twice, then constant."""
    return channels * min(4, factor // 2)


def blocks_at(factor: int, blocks: int) -> int:
    """Residual blocks at this factor: none at 1/2, where a block costs most and sees least."""
    return 0 if factor <= 2 else blocks


class Encoder(nn.Module):
    """Feature maps at the factors `levels`, coarsest first.

    Args:
        levels: downsampling factors, coarsest first; powers of two from 2 on.
        channels: at half resolution; 2 and 4 times as many further down.
        blocks: residual blocks per factor.
    """

    def __init__(self, levels: tuple[int, ...], channels: int, blocks: int) -> None:
        super().__init__()
        self.levels = levels
        # 2x2 pixels become the channels of one: the same arithmetic at full resolution is several times slower
        self.patchify = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, channels, 3, padding=1))
        self.reach = 2
        self.stages = nn.ModuleDict()
        factor = 2
        while factor <= levels[0]:
            stage: list[nn.Module] = []
            if factor > 2:
                stage.append(downsample(width_at(factor // 2, channels), width_at(factor, channels)))
            count = blocks_at(factor, blocks)
            stage += [ResidualBlock(width_at(factor, channels)) for _ in range(count)]
            self.reach += factor * count * ResidualBlock.reach
            self.stages[str(factor)] = nn.Sequential(*stage)
            factor *= 2

    def forward(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """One map per level, coarsest first."""
        x = self.patchify(images)
        maps = {}
        for factor, stage in self.stages.items():
            x = stage(x)
            maps[int(factor)] = x
        return [maps[level] for level in self.levels]
