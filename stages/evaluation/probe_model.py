"""The probe's network: a small convolutional classifier with one head per attribute, and a fixed random twin of it.

Pictures of any size are first averaged down to 64 px, so that a probe costs and sees the same at every resolution.

Shapes: b batch, d feature width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

SIDE = 64
WIDTH = 128


class Trunk(nn.Module):
    """Pictures in [-1, 1] to features."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        channels = (3, 24, 48, 96, 96)
        layers: list[nn.Module] = []
        for i in range(len(channels) - 1):
            layers += [
                nn.Conv2d(channels[i], channels[i + 1], 3, stride=2, padding=1),
                nn.GroupNorm(8, channels[i + 1]),
            ]
            layers += [nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(channels[-1] * (SIDE // 16) ** 2, width)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Features of one width, whatever the pictures' size."""
        if images.shape[-2:] != (SIDE, SIDE):
            smaller = images.shape[-1] > SIDE
            mode = "area" if smaller else "bilinear"
            images = F.interpolate(images, (SIDE, SIDE), mode=mode)
        features: Tensor = self.out(self.layers(images.contiguous(memory_format=torch.channels_last)).flatten(1))
        return features


class Probe(nn.Module):
    """A classifier per attribute on one trunk.

    Args:
        values: attribute -> its values, in the order of the logits.
    """

    def __init__(self, values: Mapping[str, list[str]]) -> None:
        super().__init__()
        self.values = {name: list(names) for name, names in values.items()}
        self.trunk = Trunk()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(names)) for names in self.values.values())

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b v"]]:
        """Logits per attribute."""
        features = F.silu(self.trunk(images))
        return {name: head(features) for name, head in zip(self.values, self.heads, strict=True)}

    def features(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The penultimate layer."""
        return F.silu(self.trunk(images))


def random_trunk() -> Trunk:
    """A trunk nobody trained, the same on every machine: features that know nothing of the data's labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_201_123)
        return Trunk().eval().requires_grad_(False)
