"""What a bottleneck returns, whatever its kind: `none`, `gaussian`, `vq` or `fsq`.

Shapes: b batch, d code width, h w height and width of this level.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class Quantized:
    """One level after its bottleneck."""

    latents: Float[Tensor, "b d h w"]
    """What the decoder gets, with gradients for the encoder."""
    codes: Int[Tensor, "b h w"] | None
    """Rows of the codebook; None where there is none (`none`, `gaussian`)."""
    loss: Float[Tensor, ""]
    """Commitment (mean squared distance to the codebook) or KL in nats per latent value; 0 for `fsq` and `none`."""
    before: Float[Tensor, "b d h w"]
    """The latents before quantization, in the codebook's own space; the mean for `gaussian`."""
