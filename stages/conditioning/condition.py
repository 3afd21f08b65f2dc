"""What a model is told to paint: one `Condition` per modality, gathered in a dict.

Every modality takes the same shape, so models need not know one from another: a token sequence for
cross-attention, one pooled vector for modulation, and a mask that says which tokens are there. A row whose mask is
False throughout has no such condition.

Shapes: b batch, t tokens, d width of the modality's own features, k classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Int, Num
from torch import Tensor

from pipeline.randomness import seed_of, uniform


@dataclass(frozen=True)
class Condition:
    """One modality of a batch: tokens (b, t, d), pooled (b, d), mask (b, t) True where a token is there."""

    tokens: Num[Tensor, "b t d"]
    pooled: Num[Tensor, "b d"]
    mask: Bool[Tensor, "b t"]

    def present(self) -> Bool[Tensor, " b"]:
        """Rows that have this condition at all."""
        return self.mask.any(dim=1)

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """The same change (a device, a repeat, a choice of rows) on all three tensors."""
        return Condition(change(self.tokens), change(self.pooled), change(self.mask))


Conditions = dict[str, Condition]
Drop = float | Mapping[str, float]
UNNAMED = 0.1
PICTURE = "picture"
"""The vector of the very picture that is learned: heard in some rows instead of what words and sounds say of it."""
STANDS_FOR = ("audio", "text", "vector")
"""What it is heard instead of."""
PICTURE_DROPPED = 0.65
"""Chance to drop it where it stands for others, unless it is named."""
BESIDE = 0.25
"""Share of its rows that hear those others too: somebody may ask for both."""


def class_condition(labels: Int[Tensor, " b"], num_classes: int) -> Condition:
    """Labels as one-hot conditions of one token.

    Args:
        labels: int64; -1 is a row without a class.
        num_classes: k, the width of the condition.
    """
    one_hot = F.one_hot(labels.clamp(min=0), num_classes).float() * (labels >= 0)[:, None]
    return Condition(rearrange(one_hot, "b k -> b 1 k"), one_hot, rearrange(labels >= 0, "b -> b 1"))


def choose_rows(conditions: Conditions, rows: Tensor) -> Conditions:
    """The conditions of some rows: `rows` is an index or a bool mask over the batch."""
    return {name: condition.map(lambda x: x[rows]) for name, condition in conditions.items()}


def repeat_rows(conditions: Conditions, times: int) -> Conditions:
    """The whole batch `times` times over, one copy after another."""
    return {name: c.map(lambda x: repeat(x, "b ... -> (n b) ...", n=times)) for name, c in conditions.items()}


def nothing_like(condition: Condition) -> Condition:
    """The same shape, and no row has it."""
    return condition.map(torch.zeros_like)


def stack_rows(conditions: Sequence[Condition]) -> Condition:
    """The rows of several conditions of one modality, one after another; shorter token sequences are padded."""
    longest = max(one.mask.shape[1] for one in conditions)
    padded = [
        Condition(
            F.pad(one.tokens, (0, 0, 0, longest - one.mask.shape[1])),
            one.pooled,
            F.pad(one.mask, (0, longest - one.mask.shape[1])),
        )
        for one in conditions
    ]
    return Condition(
        torch.cat([one.tokens for one in padded]),
        torch.cat([one.pooled for one in padded]),
        torch.cat([one.mask for one in padded]),
    )


def without_words(text: Condition, rows: Bool[Tensor, " b"]) -> Condition:
    """The same condition, in those rows as its vector alone: one empty token stands where the words were."""
    wordless = rearrange(rows & text.present(), "b -> b 1")
    first = torch.arange(text.mask.shape[1], device=rows.device) == 0
    tokens = text.tokens.masked_fill(wordless[:, :, None], 0)
    return Condition(tokens, text.pooled, torch.where(wordless, first, text.mask))


def draw_kept(
    modalities: Iterable[str], rows: Int[Tensor, " b"], *, seed: int, step: int, drop_each: Drop, drop_all: float
) -> dict[str, Tensor]:
    """Which conditions survive dropout: each is dropped by itself, and all of them together (for guidance).

    The draw of a row depends on (seed, step, global row) alone. `drop_each` is one chance for all modalities or one
    for each; a modality it does not name has the chance `UNNAMED`, or no model would know what to do without it. The
    vector of the picture itself mostly stands alone: beside it words and sounds have little to teach.

    Returns:
        bool (b,) per modality, True where the condition is kept.
    """
    names = sorted(modalities)
    draws = uniform(seed_of(seed, "condition dropout", step), rows, 1 + len(names))
    others = [name for name in STANDS_FOR if name in names]
    together = draws[:, 0] >= drop_all
    chances = dict.fromkeys(names, UNNAMED if isinstance(drop_each, Mapping) else drop_each)
    chances |= {PICTURE: PICTURE_DROPPED} if others else {}
    chances |= drop_each if isinstance(drop_each, Mapping) else {}
    kept = {name: together & (draws[:, 1 + i] >= chances[name]) for i, name in enumerate(names)}
    if PICTURE in kept and others:
        beside = uniform(seed_of(seed, "beside the picture", step), rows, 1)[:, 0] < BESIDE
        kept |= {name: kept[name] & (beside | ~kept[PICTURE]) for name in others}
    return kept


def keep_all(modalities: Iterable[str], num_rows: int, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """No dropout: what sampling with every condition uses."""
    return {name: torch.ones(num_rows, dtype=torch.bool, device=device) for name in modalities}
