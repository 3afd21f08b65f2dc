"""Paint codes with a prior: one `sample` for both kinds, with guidance, truncation, seeds per image and in-painting.

Every draw belongs to the seed of its image, so an image does not depend on the batch it is sampled in.

Shapes: b images, n codes of one level, k codebook rows, g guided copies of the batch, h w grid of a level.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.randomness import gumbel, seed_of
from stages.conditioning.condition import Conditions, nothing_like, stack_rows
from stages.prior.model import Codes, Prior
from stages.prior.order import cosine_counts, default_steps, halton_order
from stages.prior.settings import SampleSettings
from stages.prior.transformer import Guide

ONLY_NEGATIVE = 2.0
"""Weight of a negative text where nothing else is asked for and guidance names no weight of a text."""


@dataclass(frozen=True)
class Clamp:
    """Codes that must stay as they are, int64 (b, n) per level, and where, bool (b, n) per level."""

    codes: Codes
    where: list[Tensor]


@torch.no_grad()
def sample(
    prior: Prior,
    conditions: Conditions,
    seeds: Int[Tensor, " b"],
    settings: SampleSettings,
    *,
    clamp: list[Tensor] | None = None,
    clamp_mask: list[Tensor] | None = None,
    negative: Conditions | None = None,
    opposed: Conditions | None = None,
) -> list[Int[Tensor, "b _h _w"]]:
    """Sample one image's codes per seed.

    Args:
        prior: in eval mode, on the device of `seeds`.
        conditions: b rows each; empty samples without conditions.
        seeds: int64 (b,), one per image.
        settings: guidance, temperature, truncation, steps.
        negative: what guidance moves away from, instead of no condition at all; b rows.
        opposed: the texts with their opposites exchanged, which `settings.opposites` moves away from too; b rows.
        clamp, clamp_mask: int64 and bool (b, h, w) per level: codes to keep where the mask is True.

    Returns:
        int64 (b, h, w) per level, coarsest first.
    """
    guidance = Guidance.of(prior, conditions, len(seeds), settings, negative, opposed)
    held = _clamp(prior, seeds, clamp, clamp_mask)
    run = _sample_masked if prior.kind == "masked" else _sample_causal
    codes = run(prior, guidance, seeds, settings, held)
    return [rearrange(c, "b (h w) -> b h w", h=h) for c, (h, _) in zip(codes, prior.grids, strict=True)]


@dataclass(frozen=True)
class Guidance:
    """The guided copies of a batch and how their logits are put together: l0 + sum of g_i (l_i - l0).

    With a text opposed the last copy is told that, and W (l_t - l_opposed) is added, t the copy that hears the text.
    """

    guide: Guide
    weights: tuple[float, ...]
    rows: int
    share: float = 0.0
    """How much of each weight above 1 goes to what the conditions alone foretell too."""
    opposes: int | None = None
    """Which of the guided copies the last one is the opposite of."""
    away: float = 0.0
    """W."""

    @classmethod
    def of(
        cls,
        prior: Prior,
        conditions: Conditions,
        rows: int,
        settings: SampleSettings,
        negative: Conditions | None = None,
        opposed: Conditions | None = None,
    ) -> Guidance:
        """One copy without conditions (or with the negative ones), then one with all, or one per modality of a dict.

        A dict names weights for conditions that may come; those it does not name have weight 1. A row whose text has
        no opposites is as without `opposed`.
        """
        chosen, weights = _weighed(conditions, negative or {}, settings)
        hears = next((i for i, names in enumerate(chosen) if "text" in names), None)
        opposes = hears if opposed and settings.opposites else None
        if not (conditions or negative) or (weights == (1.0,) and opposes is None):  # nothing to extrapolate from
            return cls(prior.guide(conditions, {}, rows), (), rows)
        device, negative = prior.rotary.device, negative or {}
        copies, kept = {}, {}
        told_of = chosen if opposes is None else [*chosen, chosen[opposes]]
        for name in sorted({*conditions, *negative}):
            without = negative.get(name) or nothing_like(conditions[name])
            told = conditions.get(name) or nothing_like(negative[name])
            last = [] if opposes is None else [(opposed or {}).get(name, told)]
            copies[name] = stack_rows([without, *[told] * len(chosen), *last])
            keep = [name in negative, *(name in names for names in told_of)]
            kept[name] = torch.tensor(keep, device=device).repeat_interleave(rows) & copies[name].present()
        guide = prior.guide(copies, kept, rows * (1 + len(told_of)))
        return cls(guide, weights, rows, settings.foretold, opposes, settings.opposites if opposed else 0.0)

    def foretold(self, prior: Prior, level: int, cells: Any = slice(None)) -> Float[Tensor, "gb ... k"] | None:
        """What the conditions alone say of codes, where that is to be guided too."""
        return prior.foretold(self.guide, cells) if self.share and level == 0 else None

    def spread(self, codes: Codes) -> Codes:
        """The same codes in every copy."""
        copies = 1 + len(self.weights) + (self.opposes is not None)
        return [repeat(c, "b n -> (g b) n", g=copies) for c in codes]

    def combine(
        self, logits: Float[Tensor, "gb ..."], strength: float = 1.0, foretold: Float[Tensor, "gb ..."] | None = None
    ) -> Float[Tensor, "b ..."]:
        """Guided logits; `strength` in [0, 1] moves every weight above 1 from 1 to its full size.

        What is `foretold` of the same codes is guided too and added: a prior that sees the codes before follows them
        first, and of two colours paints one where the other is asked for; what sees none holds at every place (a
        product of experts, the second less its own opposite; DExperts, Liu et al. 2021, arXiv 2105.03023).
        """
        if not self.weights:
            return logits
        ramped = [_ramped(weight, strength) for weight in self.weights]
        result = logits[: self.rows] + self._moved(logits, ramped, strength)
        if foretold is not None:
            result = result + self.share * self._moved(foretold, [max(0.0, weight - 1) for weight in ramped], strength)
        return result

    def _moved(self, logits: Tensor, weights: list[float], strength: float) -> Tensor:
        """Sum of g_i (l_i - l0), and W (l_t - l_opposed)."""
        without, *guided = torch.split(logits, self.rows)
        moved = torch.zeros_like(without)
        for weight, one in zip(weights, guided, strict=False):  # the last may be the opposed one
            moved = moved + weight * (one - without)
        if self.opposes is not None:
            moved = moved + self.away * strength * (guided[self.opposes] - guided[-1])
        return moved


def _ramped(weight: float, strength: float) -> float:
    """Weights above 1 rise from 1, those that move away from 0."""
    return 1 + (weight - 1) * strength if weight > 1 else weight * strength if weight < 0 else weight


def _weighed(
    conditions: Conditions, negative: Conditions, settings: SampleSettings
) -> tuple[list[set[str]], tuple[float, ...]]:
    """The terms of guidance, each by the conditions that it hears, and their weights."""
    given = settings.guidance
    if not conditions:  # only something to move away from
        weight = given.get("text", ONLY_NEGATIVE) if isinstance(given, dict) else given
        return [set()], (float(weight),)
    if not isinstance(given, dict):
        return [set(conditions)], (float(given),)
    terms = _terms(conditions, given)
    away = [name for name in sorted(set(negative) - set(conditions)) if name in given]
    chosen = [*terms.values(), *(set[str]() for _ in away)]  # beside other conditions: from it to nothing said
    return chosen, (*map(settings.weight_of, terms), *(given[name] for name in away))


def _terms(conditions: Conditions, named: Collection[str]) -> dict[str, set[str]]:
    """A term for each condition, with what it says; a source's vector is in the term of its codes, unless named."""
    terms = {name: {name} for name in sorted(conditions)}
    if "image" in terms and "vector" not in named:
        terms["image"] |= terms.pop("vector", set())
    return terms


def _sample_masked(
    prior: Prior, guidance: Guidance, seeds: Tensor, settings: SampleSettings, held: Clamp | None
) -> Codes:
    """Level by level, a few codes more at every step (MaskGIT), the guidance rising (Muse; Chang et al. 2023)."""
    codes: Codes = []
    for level, n in enumerate(prior.sizes):
        current = torch.full((len(seeds), n), prior.codebook_sizes[level], device=seeds.device)
        current = _hold(current, level, held)
        counts = cosine_counts(n, settings.steps[level] if level < len(settings.steps) else default_steps(n))
        fill = _fill_halton if settings.order == "halton" else _fill_confident
        kept = 0 if held is None else held.where[level].sum(dim=1, keepdim=True)
        for step, count in enumerate(counts):
            strength = (step + 1) / len(counts) if settings.ramp else 1.0
            turn = Turn(level, step, counts[step - 1] if step else 0, count, strength, kept)
            current = _hold(fill(prior, guidance, [*codes, current], seeds, settings, turn), level, held)
        codes.append(current)
    return codes


@dataclass(frozen=True)
class Turn:
    """One parallel step: how many codes were known before it and are known after it."""

    level: int
    step: int
    known: int
    count: int
    strength: float
    held: Tensor | int = 0
    """How many codes of each row are kept from the start."""


def _fill_halton(
    prior: Prior, guidance: Guidance, codes: Codes, seeds: Tensor, settings: SampleSettings, turn: Turn
) -> Int[Tensor, "b n"]:
    """Fill the next cells of the Halton order, the same in every image."""
    order = halton_order(*prior.grids[turn.level])[turn.known : turn.count]
    cells = torch.tensor(order, device=seeds.device)
    logits = prior.hidden_logits(guidance.spread(codes), guidance.guide, cells)
    foretold = guidance.foretold(prior, turn.level, cells)
    _, drawn = draw(guidance.combine(logits, turn.strength, foretold), seeds, settings, turn)
    return codes[-1].index_copy(1, cells, drawn)


def _fill_confident(
    prior: Prior, guidance: Guidance, codes: Codes, seeds: Tensor, settings: SampleSettings, turn: Turn
) -> Int[Tensor, "b n"]:
    """Draw every hidden code and keep those the prior is surest of, with noise that fades (MaskGIT, section 3.3)."""
    current, size = codes[-1], prior.codebook_sizes[turn.level]
    said = prior.hidden_logits(guidance.spread(codes), guidance.guide)
    logits = guidance.combine(said, turn.strength, guidance.foretold(prior, turn.level))
    truncated, drawn = draw(logits, seeds, settings, turn)
    confidence = truncated.log_softmax(dim=-1).gather(-1, drawn[..., None])[..., 0]
    hidden = current == size
    fade = settings.confidence_noise * (1 - turn.count / current.shape[1])
    noise = gumbel(seed_of("confidence", turn.level, turn.step), seeds, current.shape[1])
    score = (confidence + fade * noise).masked_fill(~hidden, torch.inf)
    rank = score.argsort(dim=1, descending=True).argsort(dim=1)
    n = current.shape[1]
    known = turn.held + ((n - turn.held) * turn.count + n - 1) // n  # what is kept is known; of the rest its share
    return torch.where(hidden & (rank < known), drawn, current)


def _sample_causal(
    prior: Prior, guidance: Guidance, seeds: Tensor, settings: SampleSettings, held: Clamp | None
) -> Codes:
    """One code after another, with a key-value cache over the tokens."""
    codes = [torch.zeros(len(seeds), n, dtype=torch.int64, device=seeds.device) for n in prior.sizes]
    caches = prior.caches()
    for level in range(len(prior.sizes)):
        for token, places in enumerate(prior.codes_of(level).tolist()):
            said = prior.next_token(guidance.spread(codes), level, token, guidance.guide, caches)
            for slot, index in enumerate(places):
                known = guidance.spread([codes[level][:, places[:slot]]])[0][:, None]
                foretold = guidance.foretold(prior, level, index)
                logits = guidance.combine(
                    prior.next_logits(said, level, known, guidance.guide, token), foretold=foretold
                )
                _, drawn = draw(logits[:, None], seeds, settings, Turn(level, index, index, index + 1, 1.0))
                codes[level][:, index] = drawn[:, 0]
                codes[level][:, index : index + 1] = _hold(codes[level], level, held)[:, index : index + 1]
    return codes


def draw(
    logits: Float[Tensor, "b m k"], seeds: Int[Tensor, " b"], settings: SampleSettings, turn: Turn
) -> tuple[Float[Tensor, "b m k"], Int[Tensor, "b m"]]:
    """Draw codes from truncated, tempered logits; also the truncated ones. Temperature 0 takes the likeliest."""
    logits = truncate(logits, settings.top_k, settings.top_p)
    if settings.temperature > 0:
        m, k = logits.shape[1:]
        noise = gumbel(seed_of("code", turn.level, turn.step), seeds, m * k)
        drawn = (logits / settings.temperature + rearrange(noise, "b (m k) -> b m k", k=k)).argmax(dim=-1)
    else:
        drawn = logits.argmax(dim=-1)
    return logits, drawn


def truncate(logits: Float[Tensor, "... k"], top_k: int, top_p: float) -> Float[Tensor, "... k"]:
    """Keep the `top_k` likeliest codes (0: all), then the fewest of them that hold `top_p` of the probability."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, places = logits.sort(dim=-1, descending=True)
        shares = ordered.softmax(dim=-1)
        before = shares.cumsum(dim=-1) - shares
        dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, places, before >= top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return logits


def _hold(current: Tensor, level: int, held: Clamp | None) -> Tensor:
    return current if held is None else torch.where(held.where[level], held.codes[level], current)


def _clamp(prior: Prior, seeds: Tensor, codes: list[Tensor] | None, mask: list[Tensor] | None) -> Clamp | None:
    if codes is None or mask is None:
        return None
    flat = [[rearrange(x, "b h w -> b (h w)").to(seeds.device) for x in part] for part in (codes, mask)]
    assert [c.shape[1] for c in flat[0]] == prior.sizes
    return Clamp(flat[0], [where.bool() for where in flat[1]])


def with_defaults(settings: SampleSettings, **changes: Any) -> SampleSettings:
    """The settings with those changes that are not None."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})
