"""Sampling: cached equals uncached, an image depends on its seed alone, guidance, truncation, orders, in-painting."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from stages.conditioning.condition import Condition, class_condition
from stages.conditioning.image_encoder import vector_condition
from stages.conditioning.source_codes import image_condition
from stages.prior.model import Prior
from stages.prior.order import cosine_counts, default_steps, halton_order, radical_inverse
from stages.prior.sampling import Guidance, Turn, _fill_confident, draw, sample, truncate
from stages.prior.settings import SampleSettings
from tests.test_prior import KINDS, SIZES, make_class, make_codes, make_prior

ORDERS = ["halton", "confidence"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("autoregressive")])
def test_cached_logits_equal_uncached_logits(kind: str) -> None:
    prior, codes = make_prior(kind), make_codes(3)
    guide, caches = prior.guide(make_class(3), {}, 3), prior.caches()
    whole = prior.causal_logits(codes, guide)

    for level, c in enumerate(codes):
        drawn = torch.zeros(c.shape[1], dtype=torch.bool)
        for token, places in enumerate(prior.codes_of(level).tolist()):
            known = [*codes[:level], torch.where(drawn, c, 0), *(torch.zeros_like(x) for x in codes[level + 1 :])]
            said = prior.next_token(known, level, token, guide, caches)
            for slot, index in enumerate(places):
                one = prior.next_logits(said, level, c[:, None, places[:slot]], guide, token)
                assert (one - whole[level][:, index]).abs().max() <= 1e-4
                drawn[index] = True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
def test_an_image_depends_on_its_own_seed_and_not_on_the_batch(kind: str, order: str) -> None:
    prior, settings = make_prior(kind), SampleSettings(guidance=3.0, order=order, steps=(2, 5), top_p=0.9)
    seeds = torch.tensor([5, 6, 7, 8, 9, 5])
    labels = torch.tensor([0, 1, 2, 0, 1, 0])
    together = sample(prior, {"class": class_condition(labels, 3)}, seeds, settings)

    assert [c.shape for c in together] == [(6, 2, 2), (6, 4, 4)]
    assert all(c.min() >= 0 and c.max() < size for c, size in zip(together, SIZES, strict=True))
    for i in (0, 2, 4):
        alone = sample(prior, {"class": class_condition(labels[i : i + 1], 3)}, seeds[i : i + 1], settings)
        assert all(torch.equal(a[0], c[i]) for a, c in zip(alone, together, strict=True))
    assert all(torch.equal(c[0], c[5]) for c in together)
    assert not torch.equal(together[1][0], together[1][3])  # the same class under another seed


def test_autoregressive_samples_follow_the_prior() -> None:
    """Ten thousand draws of the first code have its probabilities."""
    prior = make_prior("autoregressive", grids=[(1, 1)], codebook_sizes=[7])
    seeds = torch.arange(10_000)
    conditions = {"class": class_condition(torch.ones(10_000, dtype=torch.int64), 3)}
    drawn = sample(prior, conditions, seeds, SampleSettings(guidance=1.0))[0].flatten()
    one = {"class": class_condition(torch.tensor([1]), 3)}
    expected = prior.causal_logits([torch.zeros(1, 1, dtype=torch.int64)], prior.guide(one, {}, 1))[0].softmax(-1)
    assert torch.allclose(drawn.bincount(minlength=7) / 10_000, expected.flatten(), atol=0.02)


@pytest.mark.parametrize("fold", [False, True])
def test_the_likeliest_codes_are_those_of_the_guided_logits_over_three_levels(fold: bool) -> None:
    prior = make_prior("autoregressive", fold=fold, grids=[(2, 2), (4, 4), (4, 8)], codebook_sizes=[*SIZES, 5])
    seeds = torch.arange(3)
    held = [torch.randint(0, size, (3, h, w)) for size, (h, w) in zip(prior.codebook_sizes, prior.grids, strict=True)]
    where = [torch.zeros_like(c, dtype=torch.bool) for c in held]
    where[1][:, 1::2, 0], where[2][:, :, 1::4] = True, True
    settings = SampleSettings(guidance=3.0, temperature=0.0)

    painted = sample(prior, make_class(3), seeds, settings, clamp=held, clamp_mask=where)

    codes = [c.flatten(1) for c in painted]
    guidance = Guidance.of(prior, make_class(3), 3, settings)
    for level, logits in enumerate(prior.causal_logits(guidance.spread(codes), guidance.guide)):
        likeliest = guidance.combine(logits).argmax(dim=-1)
        assert torch.equal(
            codes[level], torch.where(where[level], held[level], likeliest.view_as(held[level])).flatten(1)
        )


def logits_by(prior: Prior, conditions: dict[str, Condition], kept: dict[str, torch.Tensor]) -> torch.Tensor:
    return prior.hidden_logits(make_codes(3), prior.guide(conditions, kept, 3))


def test_guidance_is_the_formula_for_one_number_and_for_one_per_modality() -> None:
    prior = make_prior(conditions={"class": 3, "text": 6}, attend=["class", "text"])
    text = Condition(torch.randn(3, 4, 6), torch.randn(3, 6), torch.ones(3, 4, dtype=torch.bool))
    conditions = {"text": text, **make_class(3)}
    gone = torch.zeros(3, dtype=torch.bool)
    l0, both = logits_by(prior, {}, {}), logits_by(prior, conditions, {})
    by_class = logits_by(prior, conditions, {"text": gone})
    by_text = logits_by(prior, conditions, {"class": gone})

    for guidance, expected in (
        (2.5, l0 + 2.5 * (both - l0)),
        (1.0, both),
        ({"class": 2.0, "text": 3.0}, l0 + 2 * (by_class - l0) + 3 * (by_text - l0)),
        ({"text": 0.5}, by_class + 0.5 * (by_text - l0)),  # what is not named has weight 1
        ({"text": 1.0, "image": 4.0}, by_class + by_text - l0),  # what is not asked for has none
    ):
        guided = Guidance.of(prior, conditions, 3, SampleSettings(guidance=guidance))
        logits = guided.combine(prior.hidden_logits(guided.spread(make_codes(3)), guided.guide))
        assert torch.allclose(logits, expected, atol=1e-4)
    ramped = Guidance.of(prior, conditions, 3, SampleSettings(guidance=3.0))
    first = ramped.combine(prior.hidden_logits(ramped.spread(make_codes(3)), ramped.guide), strength=0.5)
    assert torch.allclose(first, l0 + 2.0 * (both - l0), atol=1e-4)


def test_what_one_source_says_twice_is_one_term_unless_it_is_named() -> None:
    prior = make_prior(conditions={"image": 1, "text": 6, "vector": 5}, attend=["text"])
    text = Condition(torch.randn(3, 4, 6), torch.randn(3, 6), torch.ones(3, 4, dtype=torch.bool))
    here = torch.ones(3, dtype=torch.bool)
    conditions = {
        "image": image_condition(make_codes(3), here), "text": text, "vector": vector_condition(torch.randn(3, 5), here)
    }  # fmt: skip
    gone = ~here
    l0 = logits_by(prior, {}, {})
    by_text = logits_by(prior, conditions, {"image": gone, "vector": gone})
    by_source = logits_by(prior, conditions, {"text": gone})
    by_codes = logits_by(prior, conditions, {"text": gone, "vector": gone})
    by_vector = logits_by(prior, conditions, {"text": gone, "image": gone})
    for guidance, expected in (
        ({"image": 3.0}, by_text + 3 * (by_source - l0)),
        ({"image": 3.0, "vector": 2.0}, by_text + 3 * (by_codes - l0) + 2 * (by_vector - l0)),
    ):
        guided = Guidance.of(prior, conditions, 3, SampleSettings(guidance=guidance))
        logits = guided.combine(prior.hidden_logits(guided.spread(make_codes(3)), guided.guide))
        assert torch.allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["foretold", "autoregressive foretold"])
def test_what_the_conditions_foretell_is_guided_too(kind: str) -> None:
    prior = make_prior(kind, conditions={"class": 3, "text": 6})
    text = Condition(torch.randn(3, 4, 6), torch.randn(3, 6), torch.ones(3, 4, dtype=torch.bool))
    told = {"text": text, **make_class(3)}
    asked = {"": {}, "class": make_class(3), "text": {"text": text}, "all": told}
    of = {name: prior.foretold(prior.guide(given, {}, 3)) for name, given in asked.items()}
    by_class, by_text, by_all = (of[name] - of[""] for name in ("class", "text", "all"))
    for guidance, expected in (
        (3.0, by_all),
        ({"class": 2.0, "text": -1.0}, 0.5 * by_class),  # nothing is added where a condition is moved away from
        ({"class": 1.0, "text": 4.0}, 1.5 * by_text),  # or not moved towards
    ):
        guided = Guidance.of(prior, told, 3, SampleSettings(guidance=guidance, foretold=0.5))
        foretold = prior.foretold(guided.guide)
        nothing = torch.zeros_like(foretold)
        assert torch.allclose(guided.combine(nothing, 1.0, foretold), expected, atol=1e-4)
        assert expected.abs().max() > 0.01 and not guided.combine(nothing).any()
        assert not guided.combine(nothing, 0.0, foretold).any()  # as guidance does, it rises with the steps
        assert torch.allclose(prior.foretold(guided.guide, 2), foretold[:, 2], atol=1e-6)
    settings = [SampleSettings(guidance=3.0, temperature=0.0, foretold=share) for share in (0.0, 5e4)]
    settings = [replace(one, ramp=False) for one in settings]
    without, shouted = (sample(prior, told, torch.arange(3), one)[0].flatten(1) for one in settings)
    assert torch.equal(shouted, by_all.argmax(dim=-1)) and not torch.equal(without, shouted)
    for strange in (-0.1, float("inf")):
        with pytest.raises(ValueError, match="foretold must be finite and not negative"):
            SampleSettings(foretold=strange)


@pytest.mark.parametrize(("guidance", "weight"), [(4.0, 4.0), ({"text": 3.0}, 3.0), ({"class": 5.0}, 2.0)])
def test_a_negative_alone_is_moved_away_from(guidance: float | dict[str, float], weight: float) -> None:
    prior = make_prior(conditions={"class": 3, "text": 6}, attend=["class", "text"])
    text = Condition(torch.randn(3, 4, 6), torch.randn(3, 6), torch.ones(3, 4, dtype=torch.bool))
    guided = Guidance.of(prior, {}, 3, SampleSettings(guidance=guidance), {"text": text})
    logits = guided.combine(prior.hidden_logits(guided.spread(make_codes(3)), guided.guide))
    by_text, l0 = logits_by(prior, {"text": text}, {}), logits_by(prior, {}, {})
    assert torch.allclose(logits, by_text + weight * (l0 - by_text), atol=1e-4)


def test_beside_another_condition_a_negative_has_a_weight_of_its_own() -> None:
    prior = make_prior(conditions={"class": 3, "text": 6}, attend=["class", "text"])
    text = Condition(torch.randn(3, 4, 6), torch.randn(3, 6), torch.ones(3, 4, dtype=torch.bool))
    named = {"class": class_condition(torch.tensor([0, 1, 2]), 3)}
    by_text, by_class, l0 = (logits_by(prior, given, {}) for given in ({"text": text}, named, {}))
    for guidance, away in (({"class": 3.0}, 0.0), ({"class": 3.0, "text": 2.0}, 2.0)):
        guided = Guidance.of(prior, named, 3, SampleSettings(guidance=guidance), {"text": text})
        logits = guided.combine(prior.hidden_logits(guided.spread(make_codes(3)), guided.guide))
        assert torch.allclose(logits, by_text + 3 * (by_class - by_text) + away * (l0 - by_text), atol=1e-4)


def test_weights_are_finite() -> None:
    for weight in (float("nan"), {"text": float("inf")}):
        with pytest.raises(ValueError, match="guidance must be finite"):
            SampleSettings(guidance=weight)


def test_a_row_without_the_condition_is_guided_by_nothing() -> None:
    prior = make_prior()
    conditions = {"class": class_condition(torch.tensor([1, -1, 2]), 3)}
    guided = Guidance.of(prior, conditions, 3, SampleSettings(guidance=4.0))
    logits = guided.combine(prior.hidden_logits(guided.spread(make_codes(3)), guided.guide))
    assert torch.allclose(logits[1], logits_by(prior, {}, {})[1], atol=1e-4)


def test_truncation_keeps_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[torch.tensor([2, 0, 3, 1])]
    assert truncate(logits, 2, 1.0).isfinite().tolist() == [False, True, False, True]
    assert truncate(logits, 0, 0.79).isfinite().tolist() == [False, True, False, True]
    assert truncate(logits, 0, 0.81).isfinite().tolist() == [True, True, False, True]
    assert truncate(logits, 0, 0.01).isfinite().tolist() == [False, True, False, False]
    assert torch.equal(truncate(logits, 0, 1.0), logits)


def test_temperature_sharpens_and_zero_takes_the_likeliest() -> None:
    logits, seeds = torch.tensor([0.6, 0.4]).log().expand(4000, 1, 2), torch.arange(4000)
    turn = Turn(0, 0, 0, 1, 1.0)
    for temperature, expected in ((1.0, 0.6), (0.5, 0.36 / 0.52)):
        _, drawn = draw(logits, seeds, SampleSettings(temperature=temperature), turn)
        assert (drawn == 0).float().mean().item() == pytest.approx(expected, abs=0.03)
    _, drawn = draw(logits, seeds, SampleSettings(temperature=0.0), turn)
    assert not drawn.any()
    kept, _ = draw(logits, seeds, SampleSettings(top_k=1), turn)
    assert torch.equal(kept.isfinite()[0, 0], torch.tensor([True, False]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
def test_clamped_codes_stay_and_steer_the_rest(kind: str, order: str) -> None:
    prior, seeds = make_prior(kind), torch.arange(4)
    settings = SampleSettings(guidance=1.0, order=order, temperature=0.2)  # so that logits, not draws, decide
    given = [c.view(4, s, s) for c, s in zip(make_codes(4, seed=9), (2, 4), strict=True)]
    where = [torch.zeros(4, 2, 2, dtype=torch.bool), torch.zeros(4, 4, 4, dtype=torch.bool)]
    where[0][:, 0], where[1][:, :2], where[1][:, :, 1] = True, True, True  # whole tokens of a fold, and halves

    free = sample(prior, make_class(4), seeds, settings)
    held = sample(prior, make_class(4), seeds, settings, clamp=given, clamp_mask=where)
    for codes, level, mask in zip(held, given, where, strict=True):
        assert torch.equal(codes[mask], level[mask])
    assert all(c.min() >= 0 and c.max() < size for c, size in zip(held, SIZES, strict=True))
    assert any(not torch.equal(a[~m], b[~m]) for a, b, m in zip(free, held, where, strict=True))


def test_by_confidence_a_hole_is_filled_over_all_steps() -> None:
    prior, counts = make_prior(), cosine_counts(16, 5)
    settings = SampleSettings(order="confidence", guidance=1.0)
    guidance = Guidance.of(prior, make_class(3), 3, settings)
    coarse, fine = make_codes(3)
    where = torch.zeros(3, 16, dtype=torch.bool)
    where[1, :8], where[2, :15] = True, True
    current = torch.where(where, fine, SIZES[1])
    held, filled = where.sum(dim=1, keepdim=True), []
    for step, count in enumerate(counts):
        turn = Turn(1, step, counts[step - 1] if step else 0, count, 1.0, held)
        current = _fill_confident(prior, guidance, [coarse, current], torch.arange(3), settings, turn)
        filled.append((current != SIZES[1]).sum(dim=1).tolist())
    assert [row[0] for row in filled] == counts, "nothing is kept: as many as ever"
    assert [row[1] for row in filled] == [8 + math.ceil(count / 2) for count in counts]
    assert [row[2] for row in filled] == [16] * 5
    assert torch.equal(current[where], fine[where])


def test_halton_visits_every_cell_once_and_spreads_early_cells() -> None:
    assert [radical_inverse(i, 2) for i in range(1, 5)] == [0.5, 0.25, 0.75, 0.125]
    for height, width in ((1, 1), (4, 4), (8, 8), (3, 5)):
        assert sorted(halton_order(height, width)) == list(range(height * width))
    quarters = {(cell // 8 // 4, cell % 8 // 4) for cell in halton_order(8, 8)[:6]}
    assert len(quarters) == 4


@pytest.mark.parametrize(("n", "steps"), [(16, 8), (64, 10), (64, 64), (4, 9), (1, 1), (1024, 14)])
def test_counts_rise_to_all_codes_slowly_at_first(n: int, steps: int) -> None:
    counts = cosine_counts(n, steps)
    assert len(counts) == min(n, steps) and counts[-1] == n
    gains = [b - a for a, b in zip([0, *counts], counts, strict=False)]
    assert min(gains) >= 1
    assert steps >= n or gains[0] <= max(gains[-3:])
    assert (default_steps(16), default_steps(64), default_steps(1024), default_steps(2)) == (8, 10, 14, 2)


def test_settings_refuse_what_cannot_work() -> None:
    for wrong in ({"temperature": -1.0}, {"top_p": 0.0}, {"order": "random"}, {"steps": (0,)}, {"top_k": -1}):
        with pytest.raises(ValueError, match="sampling"):
            SampleSettings(**wrong)  # type: ignore[arg-type]
