"""What a prior learns: draws that follow the global row, losses that are means over it, exact likelihoods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from stages.conditioning.condition import Condition, class_condition
from stages.prior.loss import MEAN_HIDDEN, Draw, Noise, causal_loss, disturb, draw_hidden, masked_loss, surprise
from stages.prior.model import Pass, Prior
from tests.test_prior import KINDS, SIZES, make_class, make_codes, make_prior


def test_hidden_shares_follow_the_cosine_and_at_least_one_code_is_hidden() -> None:
    counts = draw_hidden(torch.arange(20_000), 64, seed=5).sum(dim=1).float()
    assert counts.min() == 1 and counts.max() == 64
    assert counts.mean().item() / 64 == pytest.approx(MEAN_HIDDEN, abs=0.01)
    assert (counts <= 32).float().mean().item() == pytest.approx(1 / 3, abs=0.02)  # cos(pi u / 2) <= 1/2 for u >= 2/3


def test_noise_replaces_and_hides_its_shares() -> None:
    codes = torch.zeros(500, 100, dtype=torch.int64)
    shown = disturb(codes, 10, torch.arange(500), Noise(corrupt=0.2, token_dropout=0.1), seed=1)
    assert (shown == 10).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert ((shown > 0) & (shown < 10)).float().mean().item() == pytest.approx(0.2 * 0.9, abs=0.01)
    assert torch.equal(disturb(codes, 10, torch.arange(500), Noise(corrupt=0.0), seed=1), codes)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_global_batch_is_the_mean_over_its_micro_batches(kind: str) -> None:
    prior, codes, conditions = make_prior(kind), make_codes(12), make_class(12)
    learn = masked_loss if prior.kind == "masked" else causal_loss
    draw = Draw(3, 5, Noise(token_dropout=0.1, foretold=0.5 * (prior.foretelling is not None)))

    def loss(rows: slice) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        part = {"class": conditions["class"].map(lambda x: x[rows])}
        return learn(prior, SIZES, [c[rows] for c in codes], part, torch.arange(100, 112)[rows], draw)

    whole, logged = loss(slice(0, 12))
    for cut in (1, 3, 6):  # of a single row, one in two learns the finer level not at all
        parts, said = zip(*(loss(slice(i, i + cut)) for i in range(0, 12, cut)), strict=True)
        assert torch.allclose(torch.stack(parts).mean(), whole, atol=1e-5)
        for name in ("loss_level0", "loss_level1"):
            mean = torch.stack([one[name] for one in said]).mean()
            # masked: rows hide more or less, so that a mean of means is near, not equal
            assert torch.allclose(mean, logged[name], rtol=0.1 if prior.kind == "masked" else 1e-4), name


@pytest.mark.parametrize("row", [4, 5])  # of two, one learns the coarsest level alone
@pytest.mark.parametrize("heard", ["class", "text", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient_from_a_single_row(kind: str, heard: str, row: int) -> None:
    several: dict[str, dict[str, Any]] = {
        "class": {},
        "text": {"conditions": {"text": 6}, "attend": ["text"], "condition_layers": 1},
        "all": {
            "conditions": {"class": 3, "text": 6, "audio": 7, "vector": 5, "image": 1},
            "attend": ["text"], "attend_every": 2, "condition_layers": 1, "code_widths": [4, 4],
            "shared": {"text": 5, "audio": 5, "vector": 5},
        },
    }  # fmt: skip
    prior = make_prior(kind, **several[heard])
    text = Condition(torch.randn(1, 3, 6), torch.randn(1, 6), torch.ones(1, 3, dtype=torch.bool))
    told = {"text": text} if heard == "text" else make_class(1)
    learn = masked_loss if prior.kind == "masked" else causal_loss
    noise = Noise(foretold=float(prior.foretelling is not None))
    loss, metrics = learn(prior, SIZES, make_codes(1), told, torch.tensor([row]), Draw(0, 0, noise))
    loss.backward()
    assert [name for name, p in prior.named_parameters() if p.grad is None] == []
    told_too = {"loss_foretold"} if prior.foretelling is not None else set()
    assert set(metrics) == {"loss_level0", "loss_level1"} | told_too and loss.isfinite()


@pytest.mark.parametrize(("wordless", "alike"), [(0.0, False), (0.9999, True)])
def test_wordless_rows_learn_from_the_vector_alone(wordless: float, alike: bool) -> None:
    prior = make_prior("autoregressive folded", conditions={"text": 6}, attend=["text"], condition_layers=1)
    noise = Noise(drop_each=0.0, drop_all=0.0, wordless=wordless, whole_every=1)
    pooled, mask = torch.randn(4, 6), torch.ones(4, 3, dtype=torch.bool)
    losses = []
    for _ in range(2):
        told = {"text": Condition(torch.randn(4, 3, 6), pooled, mask)}
        losses.append(causal_loss(prior, SIZES, make_codes(4), told, torch.arange(4), Draw(0, 0, noise))[0].item())
    assert (abs(losses[0] - losses[1]) < 1e-6) is alike


def test_the_masked_loss_is_the_cross_entropy_of_the_hidden_codes() -> None:
    prior, codes, rows = make_prior(), make_codes(6), torch.arange(6)
    draw = Draw(0, 1, Noise(corrupt=0.0, drop_each=0.0, drop_all=0.0, label_smoothing=0.0))
    loss, _ = masked_loss(prior, SIZES, codes, {}, rows, draw)

    total = 0.0
    for row in range(6):
        for level in (0, 1) if (row + 1) % 2 else (0,):  # every row learns level 0, every other one level 1
            one = rows[row : row + 1]
            hidden = draw_hidden(one, codes[level].shape[1], draw.seed_of("hidden", level))
            shown = [c[row : row + 1] for c in codes[: level + 1]]
            target = shown[-1]
            shown[-1] = target.masked_fill(hidden, SIZES[level])
            logits = prior([Pass(shown, {}, {}, None)])[0]
            entropy = -logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
            total += (entropy * hidden).sum().item() * (1 + level) / (codes[level].shape[1] * MEAN_HIDDEN)
    assert loss.item() == pytest.approx(total / 6, rel=1e-4)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("every", [0, 1, 3, 6])
def test_rows_that_learn_the_coarsest_level_alone_leave_the_mean_gradient_as_it_is(every: int, fold: bool) -> None:
    prior, codes, rows = make_prior("autoregressive", fold=fold), make_codes(6), torch.arange(6)
    noise = Noise(corrupt=0.0, drop_each=0.0, drop_all=0.0, whole_every=every)
    turns = [causal_loss(prior, SIZES, codes, {}, rows, Draw(0, step, noise))[0] for step in range(6)]

    levels = zip(prior([Pass(codes, {})]), codes, strict=True)
    exact = sum(F.cross_entropy(logits.flatten(0, 1), c.flatten()) for logits, c in levels)

    assert torch.stack(turns).mean().item() == pytest.approx(torch.as_tensor(exact).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["foretold", "autoregressive foretold"])
def test_a_projection_is_asked_for_the_coarsest_codes_alone(kind: str) -> None:
    prior, codes, rows, told = make_prior(kind), make_codes(6), torch.arange(6), make_class(6)
    learn = masked_loss if kind == "foretold" else causal_loss
    noise = Noise(corrupt=0.0, drop_each=0.0, drop_all=0.0)
    plain, weighed = (
        learn(prior, SIZES, codes, told, rows, Draw(0, 1, replace(noise, foretold=share)))[0] for share in (0.0, 3.0)
    )
    foretold = prior.foretold(prior.guide(told, {}, 6))
    entropy = -foretold.log_softmax(-1).gather(-1, codes[0][..., None]).mean()
    assert (weighed - plain).item() == pytest.approx(3 * entropy.item(), rel=1e-4)
    entropy.backward()
    silent = {name.split(".")[0] for name, p in prior.named_parameters() if p.grad is None}
    assert "embeddings" in silent  # no code was seen
    assert prior.foretelling is not None and all(p.grad is not None for p in prior.foretelling.projection.parameters())


def test_a_projection_alone_learns_which_of_two_sides_is_which() -> None:
    torch.manual_seed(0)
    prior = Prior(
        kind="autoregressive", grids=[(2, 2)], codebook_sizes=[5], conditions={"class": 16},
        width=16, depth=1, heads=2, foretells=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(prior.parameters(), lr=2e-2)
    left, right = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    codes = torch.stack([left, right, left, right], dim=1)
    told = {"class": class_condition(torch.arange(16), 16)}
    for _ in range(150):
        loss = F.cross_entropy(prior.foretold(prior.guide(told, {}, 16)).flatten(0, 1), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (prior.foretold(prior.guide(told, {}, 16)).argmax(dim=-1) == codes).all()


def test_a_prior_of_one_level_learns_it_from_every_row() -> None:
    prior = Prior(kind="autoregressive", grids=[(4, 4)], codebook_sizes=[11], conditions={}, width=16, depth=1, heads=2)
    draw = Draw(0, 1, Noise(corrupt=0.0, whole_every=4))
    _, metrics = causal_loss(prior, [11], [torch.zeros(3, 16, dtype=torch.int64)], {}, torch.arange(3), draw)
    assert metrics["loss_level0"] > 0


@pytest.mark.parametrize("kind", ["autoregressive", "autoregressive folded"])
def test_surprise_is_the_negative_log_likelihood_in_bits(kind: str) -> None:
    prior, codes = make_prior(kind), make_codes(2)
    bits = surprise(prior, codes, make_class(2), torch.arange(2), seed=0)
    guide = prior.guide(make_class(2), {}, 2)
    for level, logits in enumerate(prior.causal_logits(codes, guide)):
        picked = logits.softmax(-1).gather(-1, codes[level][..., None])[..., 0]
        assert torch.allclose(bits[:, level], -picked.log2().mean(dim=1), atol=1e-5)


def test_the_masked_bound_of_a_prior_that_knows_nothing_is_log2_of_the_codebook() -> None:
    prior = make_prior()
    for head in prior.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    bits = surprise(prior, make_codes(5), make_class(5), torch.arange(5), seed=0)
    assert torch.allclose(bits, torch.tensor([7.0, 11.0]).log2().expand(5, 2), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_learns_codes_that_follow_from_class_and_coarse_code(kind: str) -> None:
    parents = make_prior().get_buffer("parents1")
    torch.manual_seed(0)
    prior = Prior(**make_prior(kind).arguments)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=6e-3)
    learn = masked_loss if prior.kind == "masked" else causal_loss
    labels = torch.arange(24) % 3
    coarse = (labels[:, None] * 2 + torch.arange(24)[:, None] // 12).expand(-1, 4).contiguous()  # one of two per class
    fine = (coarse[:, parents] + torch.arange(16)) % 11
    conditions = {"class": class_condition(labels, 3)}
    noise = Noise(corrupt=0.0, label_smoothing=0.0, drop_each=0.0, drop_all=0.0)
    for step in range(80):
        loss, _ = learn(prior, SIZES, [coarse, fine], conditions, torch.arange(24), Draw(0, step, noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    bits = surprise(prior.eval(), [coarse, fine], conditions, torch.arange(24), seed=1).mean(dim=0)
    assert bits[0] < 0.6  # the truth: 1 bit over 4 codes
    assert bits[1] < 0.1
