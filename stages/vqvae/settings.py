"""Settings of the learned codebook. Torch-free: a recipe and a model read the same class."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("none", "gaussian", "vq", "fsq")
"""Of the bottleneck."""


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
