"""The decoder: a canvas that starts at the coarsest level and takes in each finer level on its way to the pixels.

Shapes: b batch, c channels of a level, d code width, H W image, h w height and width of a level.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from stages.layers import ResidualBlock, upsample
from stages.vqvae.encoder import width_at


class Decoder(nn.Module):
    """`start` and `add` put a level's latents on the canvas; `grow` takes it to the next level, `paint` to pixels.

    Args:
        levels: downsampling factors, coarsest first.
        channels: at half resolution.
        blocks: residual blocks per factor; one at half resolution.
        widths: d of each level.
    """

    def __init__(self, levels: tuple[int, ...], channels: int, blocks: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.levels, self.channels = levels, channels
        self.enter = nn.ModuleList(
            nn.Conv2d(d, width_at(factor, channels), 3, padding=1) for d, factor in zip(widths, levels, strict=True)
        )
        self.stages = nn.ModuleDict()
        self.rise = nn.ModuleDict()
        self.reach = sum(levels)  # the 3x3 of `enter`
        factor = levels[0]
        while factor >= 2:
            count = blocks if factor > 2 else 1
            self.stages[str(factor)] = nn.Sequential(*[ResidualBlock(width_at(factor, channels)) for _ in range(count)])
            self.reach += factor * count * ResidualBlock.reach
            if factor > 2:
                self.rise[str(factor)] = upsample(width_at(factor, channels), width_at(factor // 2, channels))
            factor //= 2
        self.pixels = nn.Sequential(nn.Conv2d(channels, 12, 3, padding=1), nn.PixelShuffle(2))
        self.reach += 2

    def add(
        self, canvas: Float[Tensor, "b c h w"] | None, latents: Float[Tensor, "b d h w"], level: int
    ) -> Float[Tensor, "b c h w"]:
        """The canvas with one level's latents on it, worked over at that level's factor."""
        entered = self.enter[level](latents)
        canvas = entered if canvas is None else canvas + entered
        return self.stages[str(self.levels[level])](canvas)  # type: ignore[no-any-return]

    def grow(self, canvas: Float[Tensor, "b c h w"], level: int) -> Tensor:
        """From the factor of `level` to that of the next finer level, or to 2 after the last."""
        factor = self.levels[level]
        last = level == len(self.levels) - 1
        until = 2 if last else self.levels[level + 1]
        while factor > until:
            canvas = self.rise[str(factor)](canvas)
            factor //= 2
            if factor > until or last:  # the next level's own factor is worked over once its latents are there
                canvas = self.stages[str(factor)](canvas)
        return canvas

    def paint(self, canvas: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """From half resolution to pixels."""
        return self.pixels(canvas)  # type: ignore[no-any-return]
