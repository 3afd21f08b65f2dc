"""What makes a reconstruction good. No loss here needs a download.

Shapes: b batch, c channels, H W image, h w height and width of a feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stages.metrics import luma

SCALES = (2, 4, 8)
"""Area-downsampling factors of the multi-scale term."""


def pixel_loss(
    output: Float[Tensor, "b 3 H W"],
    target: Float[Tensor, "b 3 H W"],
    *,
    l1: float,
    mse: float,
    multiscale: float,
    chroma: float = 0.0,
) -> Float[Tensor, ""]:
    """Weighted L1, mean squared error, that of colour alone, and mean L1 over `SCALES`.

    The last keeps large areas from drifting in colour. Colour alone is what is left of a difference when its luma
    (Rec. 601) is taken from every channel.
    """
    difference = output.float() - target.float()
    loss = l1 * difference.abs().mean() + mse * difference.square().mean()
    if chroma:
        loss = loss + chroma * (difference - luma(difference)).square().mean()
    if multiscale:
        coarse = [F.avg_pool2d(difference, scale).abs().mean() for scale in SCALES]
        loss = loss + multiscale * torch.stack(coarse).mean()
    return loss


def hinge_loss(real: Float[Tensor, "b 1 h w"], fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """What the discriminator lowers (Lim and Ye 2017, arXiv 1705.02894): real above 1, rebuilt below -1."""
    return 0.5 * (F.relu(1.0 - real.float()).mean() + F.relu(1.0 + fake.float()).mean())


def fooling_loss(fake: Float[Tensor, "b 1 h w"]) -> Float[Tensor, ""]:
    """What the autoencoder lowers: its pictures should get large logits."""
    return -fake.float().mean()


def feature_matching(real: list[Tensor], fake: list[Tensor]) -> Float[Tensor, ""]:
    """Mean L1 between the discriminator's feature maps (Salimans et al. 2016, arXiv 1606.03498, section 3.1)."""
    return torch.stack([F.l1_loss(f.float(), r.float().detach()) for r, f in zip(real, fake, strict=True)]).mean()


def ramp(step: int, start: float, length: float) -> float:
    """0 before `start`, 1 from `start + length` on, straight in between; all in steps."""
    if step < start:
        return 0.0
    return 1.0 if length <= 0 else min(1.0, (step - start) / length)
