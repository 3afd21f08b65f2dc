"""Settings of the learned codebook. Torch-free: a recipe and a model read the same class."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("none", "gaussian", "vq", "fsq")
"""Of the bottleneck."""
FSQ_STEPS = {
    64: (4, 4, 4),
    128: (5, 5, 5),
    256: (8, 6, 5),
    512: (8, 8, 8),
    1024: (8, 5, 5, 5),
    2048: (8, 8, 6, 5),
    4096: (7, 5, 5, 5, 5),
    8192: (8, 8, 5, 5, 5),
    16384: (8, 8, 8, 6, 5),
    65536: (8, 8, 8, 5, 5, 5),
}
"""Of `fsq`: steps per channel for about so many rows (Mentzer et al. 2023, table 1, and sizes between)."""


@dataclass(frozen=True, kw_only=True)
class CodebookSettings:
    """How a `vq` codebook measures distance, follows the data and passes gradients."""

    metric: str = "cosine"
    """`cosine` puts vectors and rows on a sphere (ViT-VQGAN, Yu et al. 2021, section 3.2); `euclidean` does not."""
    decay: float = 0.99
    """Of the moving average that rows are, per optimizer step."""
    dead_below: float = 0.1
    """A row used less than this share of the mean use is dead and is drawn anew."""
    gradient: str = "straight_through"
    """`straight_through`, or `rotation` (rotation trick, Fifty et al. 2024, arXiv 2410.06424)."""

    def __post_init__(self) -> None:
        for name, allowed in (("metric", ("cosine", "euclidean")), ("gradient", ("straight_through", "rotation"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}; got '{getattr(self, name)}'.")
        if not 0 < self.decay < 1 or not 0 <= self.dead_below < 1:
            raise ValueError(f"decay is in (0, 1) and dead_below in [0, 1); got {self.decay} and {self.dead_below}.")


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Weights of the autoencoder's losses, on images in [-1, 1]."""

    l1: float = 1.0
    """Mean absolute error per pixel."""
    mse: float = 2.0
    """Mean squared error per pixel: what PSNR measures."""
    multiscale: float = 0.5
    """Mean absolute error after area-downsampling by 2, 4 and 8."""
    chroma: float = 0.0
    """Mean squared error of the colour alone, brightness taken away: small coloured parts, of which errors in
    brightness drown the rest, keep their colour."""
    commitment: float = 0.25
    """Squared distance of encoder outputs to their codes (`vq`)."""
    kl: float = 1e-3
    """Nats per latent value (`gaussian`)."""
    top: float = 0.25
    """The same pixel losses for the picture decoded from level 0 alone; 0 switches it off."""
    perceptual: float = 0.0
    """Distance in the eyes of a frozen vision model (`vqvae.perceptual` names it); 0 for none."""
    adversarial: float = 0.0
    """Patch discriminator, once ramped in; 0 for none."""
    feature_matching: float = 2.0
    """Mean absolute error between the discriminator's feature maps, times the discriminator's own weight."""
    adversarial_start: float = 0.5
    """Share of the steps after which the discriminator's influence ramps in; it starts to learn half as early."""
    adversarial_ramp: float = 0.1
    """Share of the steps the ramp takes."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise ValueError(f"loss.{name} must not be negative; got {value}.")
        if self.l1 + self.mse + self.multiscale == 0:
            raise ValueError("loss.l1, loss.mse and loss.multiscale are all 0: nothing asks for a reconstruction.")
