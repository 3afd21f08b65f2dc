"""Of several pictures painted for each ask, which to keep? Every way to choose, on the same candidates, by the judge.

    python -m benchmarks.choosers runs/birds [-n 100] [--candidates 8] [--guidance G] [--away W] [--out FILE]

Asks are those of `benchmarks.obedience`: sentences about two birds and about one, calls. The mean over all candidates
is what choosing at random gives, `any` what a chooser that is always right would. `--away W` is `sampling.opposites`.

Shapes: n asks, k candidates, l levels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from benchmarks.obedience import Judge, Truth, calls_of, one_each, singles
from stages.ask import Ask
from stages.conditioning.condition import Conditions, choose_rows, nothing_like
from stages.conditioning.shared_space import LEAD
from stages.generate import CANDIDATE
from stages.prior.sampling import sample

ROWS = 8
"""Asks whose candidates are painted at once."""


@dataclass(frozen=True)
class Kind:
    """Asks of one kind: what is asked, what must be seen, and by which condition."""

    asks: list[Ask]
    truths: list[Truth]
    by: str


def kinds_of(judge: Judge) -> dict[str, Kind]:
    """Two birds in both languages, one bird in English, calls."""
    pairs = [scene for scene in judge.val if len(scene.birds) == 2]
    found = {}
    for language in ("english", "korean"):
        asks, truths = one_each(pairs, language, judge.n)
        placed = [{k: v for k, v in truth.items() if k.startswith(("left_", "right_"))} for truth in truths]
        found[f"two_{language}"] = Kind(asks, placed, "text")
    found["one_english"] = Kind(*one_each(singles(judge.val), "english", judge.n), "text")
    scenes, asks, _ = calls_of(judge, judge.n)
    found["calls"] = Kind(asks, [{"species": scene.species} for scene in scenes], "audio")
    return found


@torch.no_grad()
def measure(judge: Judge, kind: Kind, k: int, away: float) -> dict[str, float]:
    """The share of asks that are right in all that is named, by chooser."""
    right, scores = [], []
    for rows in torch.split(torch.arange(len(kind.asks)), ROWS):
        codes, pictures, conditions, wrong = paint(judge, [kind.asks[i] for i in rows], rows, k, away)
        seen = judge.seen(pictures)
        for row in range(len(rows)):
            truth = kind.truths[int(rows[row])]
            right.append([all(seen[name][row * k + j] == v for name, v in truth.items()) for j in range(k)])
        scores.append(scored(judge, kind.by, codes, pictures, conditions, wrong, k))
    hits = torch.tensor(right)
    together = {name: torch.cat([one[name] for one in scores]) for name in scores[0]}
    found = {"mean": hits.float().mean().item(), "any": hits.any(dim=1).float().mean().item()}
    for name, score in together.items():
        best = score.argmax(dim=1, keepdim=True)
        found[name] = hits.gather(1, best).float().mean().item()
    return {name: round(value, 3) for name, value in found.items()}


def paint(
    judge: Judge, asks: Sequence[Ask], numbers: Tensor, k: int, away: float
) -> tuple[list[Tensor], Tensor, Conditions, Conditions]:
    """k candidates for each ask: codes, pictures, and their conditions as asked and with opposites exchanged."""
    painter, rows = judge.painter, torch.arange(len(asks)).repeat_interleave(k)
    rows = rows.to(painter.device)
    conditions = choose_rows(painter.reader.conditions(asks, painter.listens), rows)
    wrong = choose_rows(painter.reader.opposed([ask.text for ask in asks], painter.listens), rows)
    seeds = numbers.repeat_interleave(k) + 3_000_000 + CANDIDATE * (torch.arange(len(rows)) % k)
    seeds = seeds.to(painter.device)
    codes = sample(painter.prior, conditions, seeds, replace(painter.settings, opposites=away), opposed=wrong)
    pictures = torch.from_numpy(painter._decoded(codes))
    return codes, rearrange(pictures, "n h w c -> n c h w").contiguous(), conditions, wrong


def scored(
    judge: Judge, by: str, codes: list[Tensor], pictures: Tensor, conditions: Conditions, wrong: Conditions, k: int
) -> dict[str, Tensor]:
    """What each chooser thinks of each candidate: (n, k)."""
    painter, space = judge.painter, judge.painter.space
    assert space is not None
    asked = space.asked(by, conditions[by])
    assert asked is not None
    seen = space.pictures(pictures)
    cosine = rearrange((seen * asked).sum(dim=1), "(n k) -> n k", k=k)
    each = rearrange(seen, "(n k) e -> n k e", k=k)
    agreement = (torch.einsum("n k e, n j e -> n k j", each, each).sum(dim=2) - 1) / max(1, k - 1)
    said = said_by_prior(painter.prior, codes, conditions)
    unsaid = said_by_prior(painter.prior, codes, {by: nothing_like(conditions[by])})
    gained = {name: rearrange(said[name] - unsaid[name], "(n k) -> n k", k=k) for name in said}
    scores = {"cosine": cosine, **{f"cosine + {w} agreement": cosine + w * agreement for w in (0.25, 0.5, 1.0)}}
    scores |= {f"gain of {name}": gain for name, gain in gained.items()}
    if wrong:
        exchanged_vectors = space.asked(by, wrong[by])
        assert exchanged_vectors is not None
        apart = cosine - rearrange((seen * exchanged_vectors).sum(dim=1), "(n k) -> n k", k=k)
        scores |= {f"cosine + {w} of its lead": cosine + w * apart for w in (LEAD, 1.0)}
        lead = said_by_prior(painter.prior, codes, wrong)
        gained |= {
            f"{name} against the exchanged": rearrange(said[name] - lead[name], "(n k) -> n k", k=k) for name in said
        }
    for name, gain in gained.items():
        scores |= {f"cosine + {w} {name}": standard(cosine) + w * standard(gain) for w in (0.5, 1.0)}
    return scores


def said_by_prior(prior: Any, codes: list[Tensor], conditions: Conditions) -> dict[str, Tensor]:
    """Log-likelihoods in nats of each candidate's codes: the coarsest, all of them, and the coarsest as foretold."""
    flat = [rearrange(level, "b h w -> b (h w)") for level in codes]
    guide = prior.guide(conditions, {}, len(flat[0]))
    levels = [
        -F.cross_entropy(rearrange(logits, "b n k -> b k n"), level, reduction="none").sum(dim=1)
        for logits, level in zip(prior.causal_logits(flat, guide), flat, strict=True)
    ]
    found = {"coarse codes": levels[0].cpu(), "all codes": torch.stack(levels).sum(dim=0).cpu()}
    if (foretold := prior.foretold(guide)) is not None:
        entropy = F.cross_entropy(rearrange(foretold, "b n k -> b k n"), flat[0], reduction="none")
        found["foretold codes"] = -entropy.sum(dim=1).cpu()
    return found


def standard(scores: Tensor) -> Tensor:
    """Per ask of mean 0 and deviation 1."""
    return (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, keepdim=True).clamp(min=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=100, help="asks of each kind")
    parser.add_argument("--candidates", type=int, default=8, help="pictures of each ask")
    parser.add_argument("--guidance", type=float, help="default: the run's own")
    parser.add_argument("--away", type=float, default=0.0, help="weight away from the exchanged sentence")
    parser.add_argument("--only", nargs="*", help="kinds of asks: two_english two_korean one_english calls")
    parser.add_argument("--out", type=Path, help="JSON of all figures (default: RUN/obedience/choosers.json)")
    arguments = parser.parse_args()
    judge = Judge(arguments.run, arguments.n, guidance=arguments.guidance)
    results: dict[str, Any] = {}
    for name, kind in kinds_of(judge).items():
        if arguments.only is None or name in arguments.only:
            results[name] = measure(judge, kind, arguments.candidates, arguments.away)
            print(name, json.dumps(results[name], indent=1), flush=True)
    out = arguments.out or arguments.run / "obedience" / "choosers.json"
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
