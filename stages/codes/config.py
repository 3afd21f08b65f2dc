"""Settings of the stage `codes`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.tracking import TrackingConfig
from pipeline.training_config import identity

LATENTS = ("statistics", "full", "none")


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """How images become codes."""

    variants: int = 1
    """Views of every image: the centre crop first, then random crops, so that a prior does not overfit one view."""
    flips: bool | Literal["auto"] = "auto"
    """Mirror every other view; `auto` does unless the data has captions, which may say left or right."""
    latents: str = "statistics"
    """What is kept of the latents before quantization, for a GAN: `statistics`, `full` (float16 members) or `none`."""
    batch_size: int = identity(64)
    """Views encoded at once; halved when memory runs out."""
    timeout_seconds: int = identity(1800)
    """How long the first process waits without any other finishing a shard before it gives up."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata={"identity": False})
    """Filled from the recipe."""

    def __post_init__(self) -> None:
        if self.variants < 1 or self.batch_size < 1:
            raise ValueError(f"codes.variants and batch_size are positive; got {self.variants} and {self.batch_size}.")
        if self.latents not in LATENTS:
            raise ValueError(f"codes.latents is one of {', '.join(LATENTS)}; got '{self.latents}'.")
        if self.flips not in (True, False, "auto"):
            raise ValueError(f"codes.flips is true, false or 'auto'; got '{self.flips}'.")
