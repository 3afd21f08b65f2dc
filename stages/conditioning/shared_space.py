"""The space in which pictures, sentences and sounds lie side by side: that of the CLIP a run listens to.

Shapes: n samples, k candidates, e width of the shared space.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from stages.conditioning.align.model import Towers
from stages.conditioning.condition import PICTURE, Condition, Conditions
from stages.conditioning.pretrained import load, load_weights, model_type
from stages.conditioning.text_encoder import TextEncoder

BATCH = 128
NAMED = "class name"
"""A class as its name, said as a text."""
AGREEMENT = {"audio": 0.5}
"""How much it counts that a candidate is like the others, beside its cosine to what is asked: a call leaves open most
of what a picture shows, colours first, and that moves its cosine as much as what it says. A sentence says enough."""
LEAD = 0.3
"""How much it counts that a candidate is nearer to what is asked than to that with its opposites exchanged: of all that
moves a cosine, this tells who is where. `benchmarks.choosers`: 1.0 does better in Korean, worse in English."""


def own_align(align: Sequence[Path], about: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """The finished stage `align` that said the texts: the one there is, or of several the one of its fingerprint."""
    there = [folder for folder in align if clip_of(folder).is_dir()]
    if len(there) > 1 and "text" in about:
        for folder in there:
            if TextEncoder.load(clip_of(folder)).fingerprint() == about["text"].get("fingerprint"):
                return folder
    return there[0] if there else None


def clip_of(align: Path) -> Path:
    """Where a stage `align` leaves its CLIP."""
    return align / "model" / "clip"


class Space:
    """The shared space of the encoders a run listens to; `names` says whose conditions lie in it."""

    def __init__(self, towers: Towers, projection: int, names: Collection[str]) -> None:
        self.towers, self.projection, self.names = towers, projection, frozenset(names)

    @classmethod
    def of(
        cls, about: dict[str, dict[str, Any]], align: Sequence[Path], device: str | torch.device = "cpu"
    ) -> Space | None:
        """The CLIP behind the text, with the sounds and pictures that lie in its space; None where there is none.

        Raises:
            ConfigError: there should be one, and it is not to be had.
        """
        projected = [about[name] for name in ("text", PICTURE, "audio") if about.get(name, {}).get("projection")]
        encoder = projected[0]["encoder"] if projected else about.get("text", {}).get("encoder", "align")
        own_one = own_align(align, about) if encoder == "align" else None
        if encoder == "align" and own_one is None:
            return None
        where: Any = encoder if own_one is None else clip_of(own_one)
        if model_type(where, "text")[0] != "clip":
            return None
        import transformers

        library: Any = transformers
        clip: Any = load_weights(library.CLIPModel, where, "text")
        images = load(library.AutoImageProcessor, where, "image", use_fast=False)
        side, mean = int(clip.config.vision_config.image_size), tuple(images.image_mean)
        towers = Towers(clip, None, side, frozen=True, mean=mean, deviation=tuple(images.image_std))
        own = {name: about.get(name, {}) for name in ("text", "audio", PICTURE)}
        there = [name for name, one in own.items() if one.get("encoder") == encoder]
        names = [name for name in there if name == "text" or own[name].get("projection")]
        return cls(towers.eval().requires_grad_(False).to(device), int(clip.config.projection_dim), names)

    @torch.no_grad()
    def pictures(self, images: Tensor) -> Float[Tensor, "n e"]:
        """Unit vectors of uint8 pictures (n, 3, h, w)."""
        device = self.towers.mean.device
        return torch.cat([self.towers.see(some.to(device)).cpu() for some in torch.split(images, BATCH)])

    def asked(self, name: str, condition: Condition) -> Float[Tensor, "n e"] | None:
        """Unit vectors of conditions as a prior gets them; None for a modality outside this space."""
        if name not in self.names and name != NAMED:
            return None
        return F.normalize(condition.pooled.float()[:, : self.projection], dim=-1).cpu()

    def nearest(
        self,
        pictures: Tensor,
        conditions: Conditions,
        weights: Mapping[str, float] | None = None,
        opposed: Conditions | None = None,
    ) -> Int[Tensor, " n"] | None:
        """Which of its k candidates comes nearest to what each sample asks for.

        DALL-E chooses so by a CLIP (Ramesh et al. 2021, arXiv 2102.12092, section 2.6). For sounds it counts as well
        how alike a candidate is to the others (`AGREEMENT`): the least expected loss under what the prior makes of the
        condition (Kumar and Byrne 2004, "Minimum Bayes-risk decoding for statistical machine translation").

        Args:
            pictures: uint8 (n k, 3, h, w), the candidates of a sample behind one another.
            conditions: n rows; those outside this space do not count.
            weights: of several conditions; 1 for those not named.
            opposed: texts with their opposites exchanged, n rows: the lead over them counts too (`LEAD`).

        Returns:
            The candidate's number; None where nothing that is asked for lies in this space.
        """
        asked = {name: self.asked(name, condition) for name, condition in conditions.items()}
        known = {name: vectors for name, vectors in asked.items() if vectors is not None}
        if not known:
            return None
        seen = rearrange(self.pictures(pictures), "(n k) e -> n k e", n=len(next(iter(known.values()))))
        others = (torch.einsum("nke, nle -> nk", seen, seen) - 1) / max(1, seen.shape[1] - 1)
        alike = torch.zeros(seen.shape[:2])
        for name, vectors in known.items():
            present = conditions[name].present().cpu()[:, None]  # an encoder says something of silence too
            cosine = (seen * rearrange(vectors, "n e -> n 1 e")).sum(dim=-1)
            score = cosine + AGREEMENT.get(name, 0.0) * others
            if opposed and name in opposed and (exchanged := self.asked(name, opposed[name])) is not None:
                lead = cosine - torch.einsum("nke, ne -> nk", seen, exchanged)
                score = score + LEAD * torch.where(opposed[name].present().cpu()[:, None], lead, 0.0)
            alike = alike + (weights or {}).get(name, 1.0) * torch.where(present, score, 0.0)
        return alike.argmax(dim=1)
