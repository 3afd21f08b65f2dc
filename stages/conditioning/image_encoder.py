"""Pictures to one vector by the vision tower of a CLIP: what a source picture shows, besides where it shows it.

Shapes: b pictures, s side, d width of the projection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from pipeline.errors import ConfigError
from stages.conditioning.condition import Condition
from stages.conditioning.pretrained import fingerprint_of, load, load_weights, model_type
from stages.images import picture_to_tensor, shown_to


class ImageEncoder(nn.Module):
    """A frozen vision tower with its projection; `width` is d, all of it the CLIP's shared space."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, model: nn.Module, mean: list[float], deviation: list[float]) -> None:
        super().__init__()
        config: Any = model.config
        self.name, self.model = name, model
        self.side, self.width = int(config.image_size), int(config.projection_dim)
        self.projection = self.width
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)

    @classmethod
    def load(cls, where: str | Path, device: str | torch.device = "cpu") -> ImageEncoder:
        """From a folder or hub id of a CLIP; ConfigError where there is none."""
        import transformers as library

        transformers: Any = library
        kind, _ = model_type(where, "image")
        if not kind.startswith("clip"):
            raise ConfigError(f"'{where}' holds a model of type '{kind}'; vector and picture take a CLIP.")
        processor = load(transformers.AutoImageProcessor, where, "image", use_fast=False)
        model = load_weights(transformers.CLIPVisionModelWithProjection, where, "image")
        return cls(str(where), model, list(processor.image_mean), list(processor.image_std)).to(device)

    def fingerprint(self) -> str:
        """Of everything that decides the output."""
        return fingerprint_of(self.model, self.mean.flatten().tolist(), self.deviation.flatten().tolist())

    @torch.no_grad()
    def forward(self, pictures: UInt8[Tensor, "b 3 s s"]) -> Condition:
        """One token per picture, which is its pooled vector too."""
        images = picture_to_tensor(pictures.to(self.mean.device))
        pooled = self.model(pixel_values=shown_to(images, self.side, self.mean, self.deviation)).image_embeds
        return vector_condition(pooled, torch.ones(len(pooled), dtype=torch.bool, device=pooled.device))


def vector_condition(vectors: Tensor, present: Tensor) -> Condition:
    """Vectors (b, d) of the rows that are `present` (b,) as a condition of one token."""
    return Condition(vectors[:, None], vectors, present[:, None])
