"""How far two pictures are apart in the eyes of a frozen vision model: a loss that needs no download.

The model is any vision transformer of `transformers` in a local folder: the image tower of the stage `align`, or a
CLIP or DINO of the user's. Its features are compared at several depths, each normalised per token, as LPIPS does per
pixel (Zhang et al. 2018, section 3).

Shapes: b batch, h w height and width, t tokens, d width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.errors import ConfigError
from stages.images import shown_to


class Perceptual(nn.Module):
    """Mean squared distance of unit features over a third, two thirds and the whole of a vision model's depth.

    Args:
        where: the folder or hub id of the model.

    Raises:
        ConfigError: there is no vision model.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, where: str | Path) -> None:
        super().__init__()
        import transformers

        library: Any = transformers
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
        safe: dict[str, Any] = {"trust_remote_code": False}
        try:
            kind = library.AutoConfig.from_pretrained(str(where), **safe).model_type
            architecture = library.CLIPVisionModel if kind.startswith("clip") else library.AutoModel
            model = architecture.from_pretrained(str(where), use_safetensors=True, dtype=torch.float32, **safe)
            processor = library.AutoImageProcessor.from_pretrained(str(where), use_fast=False, **safe)
            self.side = int(model.config.image_size)
        except (OSError, ValueError, ImportError, AttributeError) as error:
            first = str(error).strip().splitlines()[0][:160]
            raise ConfigError(
                f"loss.perceptual: no vision model at '{where}': {first}\n"
                "Add a section 'align', or set vqvae.perceptual to a local folder with a vision model of transformers."
            ) from error
        self.model = model.eval().requires_grad_(False)
        layers = int(model.config.num_hidden_layers)
        self.depths = sorted({max(1, round(layers * share / 3)) for share in (1, 2, 3)})
        self.register_buffer("mean", torch.tensor(processor.image_mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(processor.image_std)[:, None, None])

    def forward(self, output: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Pictures in [-1, 1], of any size; gradients go to `output` alone."""
        ours = self._features(output)
        with torch.no_grad():
            theirs = self._features(target)
        return torch.stack([(a - b).square().sum(dim=-1).mean() for a, b in zip(ours, theirs, strict=True)]).mean()

    def _features(self, images: Tensor) -> list[Float[Tensor, "b t d"]]:
        pictures = shown_to(images, self.side, self.mean, self.deviation)
        hidden = self.model(pixel_values=pictures, output_hidden_states=True).hidden_states
        return [F.normalize(hidden[depth].float(), dim=-1) for depth in self.depths]
