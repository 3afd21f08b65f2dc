"""How near what was painted lies to what was asked, in the shared space of a CLIP (and of sounds aligned to it).

Every figure stands beside that of the true pictures. Retrieval asks: of all n conditions, is the one that was asked for
the nearest to what was painted?

Shapes: n samples, e width of the shared space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stages.conditioning.align.loss import recalls
from stages.conditioning.align.model import Towers
from stages.conditioning.condition import Condition
from stages.conditioning.pretrained import load, load_weights, model_type

BATCH = 128


class Space:
    """The shared space of the encoders a run listens to."""

    def __init__(self, towers: Towers, projection: int) -> None:
        self.towers, self.projection = towers, projection

    @classmethod
    def of(cls, about: dict[str, dict[str, Any]], align: Sequence[Path]) -> Space | None:
        """The CLIP behind the text condition, with the sounds aligned to it; None where there is none."""
        encoder = about.get("text", {}).get("encoder", "align")
        folders = [folder / "model" for folder in align if (folder / "model" / "clip").is_dir()]
        if encoder == "align" and not folders:
            return None
        where: Any = folders[0] / "clip" if encoder == "align" else encoder
        if model_type(where, "text")[0] != "clip":
            return None
        import transformers

        library: Any = transformers
        clip: Any = load_weights(library.CLIPModel, where, "text")
        images = load(library.AutoImageProcessor, where, "image", use_fast=False)
        hears = about.get("audio", {}).get("encoder") == "align" and folders and (folders[0] / "audio").is_dir()
        audio = load_weights(library.ASTForAudioClassification, folders[0] / "audio", "audio") if hears else None
        side, mean = int(clip.config.vision_config.image_size), tuple(images.image_mean)
        towers = Towers(clip, audio, side, frozen=True, mean=mean, deviation=tuple(images.image_std))
        return cls(towers.eval().requires_grad_(False), int(clip.config.projection_dim))

    @torch.no_grad()
    def pictures(self, images: Tensor) -> Float[Tensor, "n e"]:
        """Unit vectors of uint8 pictures (n, 3, h, w)."""
        return torch.cat([self.towers.see(some) for some in torch.split(images, BATCH)])

    @torch.no_grad()
    def asked(self, name: str, condition: Condition) -> Float[Tensor, "n e"] | None:
        """Unit vectors of conditions as a prior gets them; None for a modality outside this space."""
        pooled = condition.pooled.float().cpu()
        if name == "text":
            return F.normalize(pooled[:, : self.projection], dim=-1)
        if name == "audio" and self.towers.audio is not None:
            head: Any = self.towers.audio.classifier
            return F.normalize(head(pooled[:, : self.towers.audio.config.hidden_size]), dim=-1)
        return None


def similarity_figures(
    space: Space, name: str, condition: Condition, painted: Tensor, real: Tensor
) -> dict[str, float]:
    """Mean cosine and retrieval of painted and of true pictures (uint8 n 3 h w), where the condition is there."""
    asked = space.asked(name, condition)
    here = condition.present().cpu()
    if asked is None or not bool(here.any()):
        return {}
    asked = asked[here]
    own = torch.eye(len(asked), dtype=torch.bool)
    alike = own | ((asked @ asked.T) > 1 - 1e-6)  # the same words are as good
    figures: dict[str, float] = {}
    for prefix, images in (("", painted), ("real_", real)):
        vectors = space.pictures(images[here])
        figures[f"{prefix}similarity"] = float((vectors * asked).sum(dim=1).mean())
        figures |= {f"{prefix}{key}": value for key, value in recalls(vectors, asked, alike).items()}
    return figures
