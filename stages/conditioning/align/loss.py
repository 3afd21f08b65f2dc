"""The contrastive loss over whatever pairs are present, with exact gradients whatever a global batch is cut into.

Every sample's vectors are compared with those of the whole global batch (InfoNCE both ways; CLIP, section 2.3). The
vectors of other processes and micro-batches enter as numbers; each micro-batch brings the gradient of its own rows,
and the sum over all of them is the gradient of the whole (GradCache; Gao et al. 2021, arXiv 2101.06983).

Shapes: b rows of a micro-batch, B rows of the global batch, e width of the shared space; n rows of which a attributes
are told, v the values of all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

SWAPPED = "swapped"
"""Not a modality: a caption made wrong, further from its own picture than the right one."""


@dataclass(frozen=True)
class Bank:
    """Unit vectors of the global batch by modality, who has which, and a number per caption (alike: the same)."""

    vectors: dict[str, Float[Tensor, "B e"]]
    present: dict[str, Bool[Tensor, " B"]]
    caption: Int[Tensor, " B"]

    def with_rows(self, vectors: dict[str, Tensor], first: int) -> Bank:
        """The same numbers, with those of rows `first` on carrying gradients."""
        mixed = {}
        for name, bank in self.vectors.items():
            mine = vectors[name]
            mixed[name] = torch.cat([bank[:first], mine, bank[first + len(mine) :]])
        return Bank(mixed, self.present, self.caption)


def contrastive_loss(bank: Bank, scale: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over the pairs of modalities of the cross-entropy both ways; and it per pair.

    A row counts where it has both. Rows with the same caption are no negatives of one another, pictures and sounds
    neither: where captions are labels, they are of one kind. A row's caption made wrong (`SWAPPED`) is one more
    negative of its picture alone.
    """
    said = bank.present.get("text", torch.zeros_like(bank.caption, dtype=torch.bool))
    itself = torch.eye(len(said), dtype=torch.bool, device=said.device)
    same = (bank.caption[:, None] == bank.caption[None, :]) & (said[:, None] & said[None, :]) & ~itself
    losses: dict[str, Tensor] = {}
    for a, b in itertools.combinations(sorted(set(bank.vectors) - {SWAPPED}), 2):
        both = bank.present[a] & bank.present[b]
        logits = scale * bank.vectors[a] @ bank.vectors[b].T
        hidden = ~both[None, :] | ~both[:, None] | same
        logits = logits.masked_fill(hidden & ~itself, -1e4)
        places = torch.arange(len(both), device=both.device)
        weight = both.to(logits.dtype) / both.sum().clamp(min=1)
        forth = F.cross_entropy(_with_swapped(logits, bank, scale, (a, b)), places, reduction="none")
        back = F.cross_entropy(logits.T, places, reduction="none")
        losses[f"{a}_{b}"] = ((forth + back) / 2 * weight).sum()
    return torch.stack(list(losses.values())).mean(), {f"loss_{k}": v.detach() for k, v in losses.items()}


def _with_swapped(logits: Tensor, bank: Bank, scale: Tensor, pair: tuple[str, str]) -> Tensor:
    """Of pictures against captions: a column more, each picture's own caption made wrong."""
    if pair != ("image", "text") or SWAPPED not in bank.vectors:
        return logits
    wrong = scale * (bank.vectors["image"] * bank.vectors[SWAPPED]).sum(dim=1)
    return torch.cat([logits, wrong.masked_fill(~bank.present[SWAPPED], -1e4)[:, None]], dim=1)


def told_loss(answers: Float[Tensor, "n v"], labels: Int[Tensor, "n a"], sizes: Sequence[int], rows: int) -> Tensor:
    """Cross-entropy of every attribute a row has (-1: it has none), the mean of each row, summed over all of them.

    Args:
        answers: logits, the values of one attribute after those of another.
        sizes: values of each attribute; v in all.
        rows: what the sum is divided by: the same in every piece of a batch, so that pieces add up.
    """
    parts = torch.split(answers.float(), list(sizes), dim=1)
    each = [F.cross_entropy(part, labels[:, i], ignore_index=-1, reduction="none") for i, part in enumerate(parts)]
    known = (labels >= 0).sum(dim=1).clamp(min=1)
    return (torch.stack(each, dim=1).sum(dim=1) / known).sum() / rows


def told_rightly(answers: Float[Tensor, "n v"], labels: Int[Tensor, "n a"], sizes: Sequence[int]) -> float:
    """Share of the attributes that are told rightly, of those that rows have; some row has one."""
    parts = torch.split(answers, list(sizes), dim=1)
    right = torch.stack([part.argmax(dim=1) for part in parts], dim=1) == labels
    return float(right[labels >= 0].double().mean())


def recalls(queries: Float[Tensor, "n e"], found: Float[Tensor, "n e"], alike: Bool[Tensor, "n n"]) -> dict[str, float]:
    """Share of queries whose counterpart (their own row, or one that is `alike`) is among the nearest 1 and 5."""
    ranks = (queries @ found.T).topk(min(5, len(found)), dim=1).indices
    hits = alike.gather(1, ranks)
    return {"R@1": float(hits[:, 0].double().mean()), "R@5": float(hits.any(dim=1).double().mean())}
