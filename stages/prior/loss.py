"""What a prior learns from one micro-batch, and how surprised it is by codes it has not seen.

Masked training hides a random share of one level, cosine-distributed (MaskGIT, section 3.2), and asks for it given the
coarser levels. Each level has a pass of its own, only as long as it must be: every row learns the coarsest level, the
finer ones, which cost more, take turns over the rows. Every draw depends on (seed, step, global row): the loss is the
same however a global batch is cut, over micro-batches or processes.

Shapes: b batch, n codes of one level, k codebook rows, a asked codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.randomness import seed_of, uniform
from stages.conditioning.condition import Conditions, Drop, choose_rows, draw_kept, without_words
from stages.prior.model import Codes, Pass, Prior
from stages.prior.transformer import Guide

MEAN_HIDDEN = 2 / math.pi  # of the cosine schedule


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How training disturbs what the prior is shown.

    Attributes:
        corrupt: share of the codes shown that are replaced by random ones of their codebook, in the levels above the
            one being learned (masked) or anywhere before the asked code (autoregressive).
        token_dropout: share of the same codes that are hidden.
        drop_each, drop_all: chance to drop each condition by itself, and all at once.
        wordless: share of the rows with a text that hear its vector alone.
        label_smoothing: of the cross-entropy.
        foretold: weight of the cross-entropy of the coarsest codes as the conditions alone foretell them in place;
            without smoothing.
        whole_every: autoregressive, one row in so many learns all levels; 0: in as many as there are levels.
    """

    corrupt: float = 0.1
    token_dropout: float = 0.0
    drop_each: Drop = 0.1
    drop_all: float = 0.05
    wordless: float = 0.0
    label_smoothing: float = 0.0
    foretold: float = 0.0
    whole_every: int = 0


@dataclass(frozen=True)
class Draw:
    """Where the random numbers of one step come from, and how strong the noise is."""

    seed: int
    step: int
    noise: Noise

    def seed_of(self, purpose: str, level: int) -> int:
        """The seed of one kind of draw on one level."""
        return seed_of(self.seed, purpose, self.step, level)


def draw_hidden(rows: Int[Tensor, " b"], n: int, seed: int) -> Bool[Tensor, "b n"]:
    """Hide a share cos(pi u / 2) of n codes in each row, u uniform; at least one."""
    draws = uniform(seed, rows, n + 1)
    count = (torch.cos(draws[:, :1] * math.pi / 2) * n).round().clamp(min=1)
    return _lowest(draws[:, 1:], count)


def _lowest(scores: Float[Tensor, "b n"], count: Tensor) -> Bool[Tensor, "b n"]:
    """The `count` lowest scores of each row."""
    return scores.argsort(dim=1).argsort(dim=1) < count


def disturb(codes: Int[Tensor, "b n"], size: int, rows: Tensor, noise: Noise, seed: int) -> Int[Tensor, "b n"]:
    """Replace a share of the codes by random ones of the codebook, and hide another share."""
    n = codes.shape[1]
    draws = uniform(seed, rows, 2 * n)
    random = (draws[:, n:] * size).long().clamp(max=size - 1)
    shown = torch.where(draws[:, :n] < noise.corrupt, random, codes)
    return torch.where(draws[:, :n] > 1 - noise.token_dropout, size, shown)


def masked_loss(
    model: nn.Module, sizes: Sequence[int], codes: Codes, conditions: Conditions, rows: Tensor, draw: Draw
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the hidden codes: per level the sum over the number expected, then the sum over levels.

    Args:
        model: the (wrapped) `Prior`, of kind `masked`.
        sizes: rows of each level's codebook.
        codes: int64 (b, n) per level.
        rows: int64 (b,), global rows.
        draw: seed, step and noise.

    Returns:
        The loss, and `loss_level<i>`, the mean cross-entropy per hidden code of each level, weighed so that the mean
        over small batches, some of them without a row of a level, is right; `loss_foretold` where it counts.
    """
    conditions, kept = _heard(conditions, rows, draw)
    turns = _turns(rows, len(codes), draw.step)
    passes = [
        _masked_pass(sizes, [c[turn] for c in codes[: level + 1]], rows[turn], draw) for level, turn in enumerate(turns)
    ]
    asked_of = [
        _told(one, conditions, kept, turn, foretold=draw.noise.foretold > 0 and not level)
        for level, (one, turn) in enumerate(zip(passes, turns, strict=True))
    ]
    total, metrics = torch.zeros((), device=rows.device), {}
    answers = iter(model(asked_of))
    for level, one in enumerate(asked_of):
        logits = next(answers)
        if one.foretold:
            foretold = F.cross_entropy(next(answers).flatten(0, 1), codes[0].flatten())
            total, metrics["loss_foretold"] = total + draw.noise.foretold * foretold, foretold.detach()
        targets = codes[level][turns[level]][one.asked]
        entropy = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=draw.noise.label_smoothing)
        expected = len(rows) * codes[level].shape[1] * MEAN_HIDDEN / (len(codes) if level else 1)
        total = total + entropy / expected
        share = turns[level].double().mean() * (len(codes) if level else 1)  # of the rows whose turn it is on average
        metrics[f"loss_level{level}"] = entropy.detach() / max(1, len(targets)) * share.float()
    return total, metrics


def _heard(conditions: Conditions, rows: Tensor, draw: Draw) -> tuple[Conditions, dict[str, Tensor]]:
    """What is left of the conditions in training, and which rows keep which."""
    noise = draw.noise
    kept = draw_kept(
        conditions, rows, seed=draw.seed, step=draw.step, drop_each=noise.drop_each, drop_all=noise.drop_all
    )
    if noise.wordless and "text" in conditions:
        wordless = uniform(draw.seed_of("wordless", 0), rows, 1)[:, 0] < noise.wordless
        conditions = conditions | {"text": without_words(conditions["text"], wordless)}
    return conditions, kept


def _told(one: Pass, conditions: Conditions, kept: Mapping[str, Tensor], turn: Tensor, *, foretold: bool) -> Pass:
    """A pass over the rows whose turn it is, with what they are told."""
    kept = {name: k[turn] for name, k in kept.items()}
    return replace(one, conditions=choose_rows(conditions, turn), kept=kept, foretold=foretold)


def _turns(rows: Tensor, levels: int, step: int) -> list[Bool[Tensor, " b"]]:
    """Which rows learn which level: all of them the coarsest, one in `levels` each finer one."""
    every = torch.ones_like(rows, dtype=torch.bool)
    return [every, *((rows + step) % levels == level for level in range(1, levels))]


def _masked_pass(sizes: Sequence[int], codes: Codes, rows: Tensor, draw: Draw) -> Pass:
    """Hide a share of the last level and disturb those above it."""
    last = len(codes) - 1
    hidden = draw_hidden(rows, codes[last].shape[1], draw.seed_of("hidden", last))
    shown = [
        disturb(codes[level], sizes[level], rows, draw.noise, draw.seed_of("disturb", level)) for level in range(last)
    ]
    return Pass([*shown, codes[last].masked_fill(hidden, sizes[last])], {}, {}, hidden)


def causal_loss(
    model: nn.Module, sizes: Sequence[int], codes: Codes, conditions: Conditions, rows: Tensor, draw: Draw
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of every code given all before it; what is shown is disturbed, what is asked is not.

    Every row learns the coarsest level, one in `whole_every` the whole sequence; levels count alike.
    Arguments and returns as for `masked_loss`.
    """
    conditions, kept = _heard(conditions, rows, draw)
    shown = [
        disturb(c, size, rows, draw.noise, draw.seed_of("disturb", level))
        for level, (c, size) in enumerate(zip(codes, sizes, strict=True))
    ]
    every = (draw.noise.whole_every or len(codes)) if len(codes) > 1 else 1
    whole = (rows + draw.step) % every == 0
    turns = [(~whole, 1), (whole, len(codes))] if every > 1 else [(whole, len(codes))]
    passes = [
        _told(Pass([c[turn] for c in shown[:n]], {}), conditions, kept, turn, foretold=draw.noise.foretold > 0)
        for turn, n in turns
    ]
    logits = iter(model(passes))
    sums = [torch.zeros((), device=rows.device) for _ in codes]
    foretold = torch.zeros((), device=rows.device)
    for turn, n in turns:
        for level in range(n):
            targets = codes[level][turn]
            sums[level] = sums[level] + _summed(next(logits), targets, draw.noise.label_smoothing)
        if draw.noise.foretold:
            foretold = foretold + _summed(next(logits), codes[0][turn])
    expected = [len(rows) * c.shape[1] / (every if level else 1) for level, c in enumerate(codes)]
    total = torch.stack([one / n for one, n in zip(sums, expected, strict=True)]).sum()
    metrics = {f"loss_level{i}": one.detach() / n for i, (one, n) in enumerate(zip(sums, expected, strict=True))}
    if draw.noise.foretold:
        foretold = foretold / codes[0].numel()
        total, metrics["loss_foretold"] = total + draw.noise.foretold * foretold, foretold.detach()
    return total, metrics


def _summed(logits: Float[Tensor, "b n k"], targets: Int[Tensor, "b n"], smoothing: float = 0.0) -> Float[Tensor, ""]:
    """The cross-entropy of all codes together."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=smoothing)


@torch.no_grad()
def surprise(prior: Prior, codes: Codes, conditions: Conditions, rows: Tensor, seed: int) -> Float[Tensor, "b levels"]:
    """Negative log-likelihood in bits per code, of each level given the coarser ones.

    Exact for `autoregressive`. For `masked` an unbiased draw of the bound over all orders of filling in: a uniform
    number of codes is hidden and the mean over them taken (ARDM; Hoogeboom et al. 2022, eq. 3).
    """
    guide = prior.guide(conditions, {}, len(rows))
    if prior.kind == "autoregressive":
        per_level = [
            F.cross_entropy(logits.transpose(1, 2), c, reduction="none").mean(dim=1)
            for logits, c in zip(prior.causal_logits(codes, guide), codes, strict=True)
        ]
    else:
        per_level = [_bound(prior, codes[: level + 1], guide, rows, seed) for level in range(len(codes))]
    return torch.stack(per_level, dim=1) / math.log(2)


def _bound(prior: Prior, codes: Codes, guide: Guide, rows: Tensor, seed: int) -> Float[Tensor, " b"]:
    last, n = len(codes) - 1, codes[-1].shape[1]
    draws = uniform(seed_of(seed, "bound", last), rows, n + 1)
    hidden = _lowest(draws[:, 1:], (draws[:, :1] * n).ceil())
    logits = prior.hidden_logits([*codes[:-1], codes[-1].masked_fill(hidden, prior.codebook_sizes[last])], guide)
    entropy = F.cross_entropy(logits.transpose(1, 2), codes[-1], reduction="none")
    return (entropy * hidden).sum(dim=1) / hidden.sum(dim=1)
