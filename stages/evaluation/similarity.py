"""How near what was painted lies to what was asked, in the shared space of a CLIP (and of sounds aligned to it).

Every figure stands beside that of the true pictures. Retrieval asks: of all n conditions, is the one that was asked for
the nearest to what was painted? With `prior.sampling.candidates` this CLIP has chosen what is painted, so its figures
flatter: their number stands beside them, and the probes, which choose nothing, are the judges.

Shapes: n samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.conditioning.align.loss import recalls
from stages.conditioning.condition import Condition
from stages.conditioning.shared_space import Space


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
