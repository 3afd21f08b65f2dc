"""The prior as a model: what may see what, losses that do not depend on how a batch is cut, likelihoods by hand."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import ConfigError, DataError, MissingInputError
from stages.conditioning.condition import Condition, class_condition
from stages.conditioning.source_codes import image_condition
from stages.prior.code_table import CodeTable
from stages.prior.config import PriorConfig
from stages.prior.fold import folds_of
from stages.prior.load import load_prior
from stages.prior.loss import MEAN_HIDDEN, Draw, Noise, causal_loss, disturb, draw_hidden, masked_loss, surprise
from stages.prior.model import Pass, Prior
from stages.prior.train import attended
from stages.prior.transformer import rotary_table, rotate
from stages.prior.window import WindowPlan, windowed_attention

SIZES = [7, 11]
KINDS = {
    "masked": {},
    "folded": {"fold": True},
    "autoregressive": {"kind": "autoregressive"},
    "autoregressive folded": {"kind": "autoregressive", "fold": True},
}


def make_prior(kind: str = "masked", **changes: Any) -> Prior:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "kind": "masked", "grids": [(2, 2), (4, 4)], "codebook_sizes": SIZES, "conditions": {"class": 3},
        "width": 32, "depth": 2, "heads": 2,
    }  # fmt: skip
    prior = Prior(**(arguments | KINDS.get(kind, {"kind": kind}) | changes))
    for parameter in prior.parameters():  # the condition starts without a say; tests need it to have one
        torch.nn.init.normal_(parameter, std=0.1)
    return prior.eval()


def make_codes(rows: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, size, (rows, n), generator=generator) for size, n in zip(SIZES, (4, 16), strict=True)]


def make_class(rows: int) -> dict[str, Condition]:
    return {"class": class_condition(torch.arange(rows) % 3, 3)}


@pytest.mark.parametrize("fold", [False, True])
def test_the_autoregressive_prior_sees_only_what_came_before(fold: bool) -> None:
    prior, codes = make_prior("autoregressive", fold=fold), make_codes(1)
    guide = prior.guide(make_class(1), {}, 1)
    order = torch.cat([prior.codes_of(0).flatten(), prior.codes_of(1).flatten() + 4])
    before = torch.cat([x.sum(-1) for x in prior.causal_logits(codes, guide)], dim=1)[:, order]

    for position, code in enumerate(order.tolist()):
        changed = [c.clone() for c in codes]
        level, index = (0, code) if code < 4 else (1, code - 4)
        changed[level][0, index] = (changed[level][0, index] + 1) % SIZES[level]
        after = torch.cat([x.sum(-1) for x in prior.causal_logits(changed, guide)], dim=1)[:, order]
        moved = ((after - before).abs() > 1e-6)[0]
        assert not moved[: position + 1].any()
        assert moved[position + 1 :].all()


@pytest.mark.parametrize("fold", [False, True])
def test_the_masked_prior_sees_in_both_directions(fold: bool) -> None:
    prior, codes = make_prior(fold=fold), make_codes(1)
    guide = prior.guide(make_class(1), {}, 1)
    before = prior.hidden_logits(codes, guide)
    for level, index in ((0, 0), (0, 3), (1, 0), (1, 15)):
        changed = [c.clone() for c in codes]
        changed[level][0, index] = (changed[level][0, index] + 1) % SIZES[level]
        assert ((prior.hidden_logits(changed, guide) - before).abs().amax(dim=-1) > 1e-6).all()


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_what_is_learned_of_a_code_is_learned_of_those_that_look_like_it(kind: str) -> None:
    widths = [4, 4]
    prior = make_prior(kind, fold=True, code_widths=widths)
    books = [torch.randn(size, width) for size, width in zip(SIZES, widths, strict=True)]
    for book in books:
        book[1] = book[0]  # two codes that look alike
    prior.know(books)
    for head, embedding in zip(prior.heads, prior.embeddings, strict=True):
        nn.init.zeros_(head.free.weight)
        nn.init.zeros_(embedding.free.weight)
    tables = [module for module in prior.modules() if isinstance(module, CodeTable)]
    assert len(tables) == 5 + (kind == "autoregressive")  # with what is seen of the codes of a folded token
    assert all(table.looks[0].features.abs().sum() > 0 for table in tables)
    for table in (*prior.heads, *prior.embeddings):
        assert torch.equal(table.rows()[0], table.rows()[1]) and not torch.equal(table.rows()[0], table.rows()[2])
    assert not prior.embeddings[0].rows()[-1].any()  # a hidden code looks like nothing

    again = Prior(**prior.arguments)
    again.load_state_dict(prior.state_dict())
    codes, guide = make_codes(2), prior.guide(make_class(2), {}, 2)
    logits = [
        x.hidden_logits(codes, guide) if kind == "masked" else x.causal_logits(codes, guide)[1] for x in (prior, again)
    ]
    assert torch.equal(*logits)
    copied = copy.deepcopy(prior)
    copied.know([torch.randn_like(book) for book in books])
    assert not torch.equal(copied.heads[0].rows(), prior.heads[0].rows())
    again.settle()
    again.know([torch.randn_like(book) for book in books])  # too late
    assert torch.equal(again.heads[0].rows(), prior.heads[0].rows())


def test_a_fine_code_carries_the_coarse_code_above_it() -> None:
    prior = make_prior(grids=[(2, 3), (4, 6)])
    above = prior.get_buffer("parents1").view(4, 6)
    assert above.tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2


def test_a_fold_puts_the_codes_under_a_coarse_one_into_one_token() -> None:
    plain, folded = folds_of([(2, 2), (4, 6), (4, 6)], fold=False), folds_of([(2, 2), (4, 6), (4, 6)], fold=True)
    assert [one.count for one in plain] == [4, 24, 24]
    assert [one.count for one in folded] == [4, 4, 24]
    codes = torch.arange(24.0).view(1, 24, 1)

    tokens = folded[1].gather(codes)

    assert tokens[0, 1].tolist() == [3.0, 4.0, 5.0, 9.0, 10.0, 11.0]  # rows 0 and 1, columns 3 to 5 of 4 x 6
    assert torch.equal(folded[1].spread(tokens), codes)


def test_a_folded_token_tells_its_codes_apart() -> None:
    prior, codes = make_prior(fold=True), make_codes(1)
    guide = prior.guide(make_class(1), {}, 1)
    swapped = [codes[0], codes[1].clone()]
    codes[1][0, 0], codes[1][0, 1] = 2, 5
    swapped[1][0, 0], swapped[1][0, 1] = 5, 2  # two codes of one token
    logits = prior.hidden_logits(codes, guide)

    assert not torch.allclose(logits, prior.hidden_logits(swapped, guide), atol=1e-3)
    assert not torch.allclose(logits[0, 0], logits[0, 1], atol=1e-3)


def test_without_cross_attention_a_vector_and_the_places_of_a_source_are_heard() -> None:
    prior, codes = make_prior("autoregressive", conditions={"text": 6, "image": 1}), make_codes(2)
    assert not [name for name, _ in prior.named_parameters() if "token" in name or "cross" in name]
    text = Condition(torch.randn(2, 4, 6), torch.randn(2, 6), torch.ones(2, 4, dtype=torch.bool))
    source = image_condition(make_codes(2, seed=1), torch.ones(2, dtype=torch.bool))

    def logits(**told: Condition) -> torch.Tensor:
        return prior.causal_logits(codes, prior.guide(told, {}, 2))[1]

    other_words = Condition(torch.randn(2, 4, 6), text.pooled, text.mask)
    assert torch.equal(logits(text=text), logits(text=other_words))
    assert not torch.allclose(logits(text=text), logits(), atol=1e-3)
    assert not torch.allclose(logits(text=text, image=source), logits(text=text), atol=1e-3)
    with pytest.raises(ConfigError, match=r"attend names audio.*listens to class, text"):
        attended(["audio"], ["class", "text"])
    assert attended(["auto"], ["class"]) == [] and attended(["text"], ["class", "text"]) == ["text"]
    with pytest.raises(ValueError, match=r"attend=\[text\]"):
        PriorConfig(condition_layers=1, attend=())


def test_a_fold_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(ValueError, match="does not split"):
        make_prior(fold=True, grids=[(1, 1), (3, 3)])


@pytest.mark.parametrize("kind", KINDS)
def test_the_condition_changes_the_logits_and_a_dropped_one_is_no_condition(kind: str) -> None:
    prior, codes = make_prior(kind), make_codes(3)
    gone = {"class": torch.zeros(3, dtype=torch.bool)}

    def logits(conditions: dict[str, Condition], kept: dict[str, torch.Tensor]) -> torch.Tensor:
        guide = prior.guide(conditions, kept, 3)
        return prior.hidden_logits(codes, guide) if prior.kind == "masked" else prior.causal_logits(codes, guide)[-1]

    with_class, dropped, without = logits(make_class(3), {}), logits(make_class(3), gone), logits({}, {})
    assert not torch.allclose(with_class, without, atol=1e-3)
    assert torch.equal(dropped, without)


@pytest.mark.parametrize("layers", [0, 1])
def test_tokens_of_a_condition_reach_the_logits_by_cross_attention_and_padding_does_not(layers: int) -> None:
    prior = make_prior(conditions={"text": 6}, attend=["text"], condition_layers=layers)
    codes = make_codes(2)
    text = Condition(torch.randn(2, 5, 6), torch.randn(2, 6), torch.tensor([[True, True, True, False, False]] * 2))

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        return prior.hidden_logits(codes, prior.guide({"text": Condition(tokens, text.pooled, text.mask)}, {}, 2))

    padding, word = text.tokens.clone(), text.tokens.clone()
    padding[:, 4] += 1
    word[:, 2] = torch.randn(6)
    assert torch.equal(logits(text.tokens), logits(padding))
    assert not torch.allclose(logits(text.tokens), logits(word), atol=1e-3)


def test_rotary_scores_depend_on_the_difference_of_positions() -> None:
    places = torch.tensor([[0.0, 0.0], [2.0, 5.0], [3.0, 1.0], [5.0, 6.0]])
    x = torch.randn(1, 1, 1, 16).expand(1, 1, 4, 16)
    y = torch.randn(1, 1, 1, 16).expand(1, 1, 4, 16)
    table = rotary_table(places, 16)
    scores = (rotate(x, table) @ rotate(y, table).mT)[0, 0]
    assert torch.allclose(scores[0, 1], scores[2, 3], atol=1e-4)  # both (2, 5) apart
    assert abs(scores[0, 1] - scores[0, 2]) > 1e-3


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_equal_full_attention_under_a_mask(shifted: bool) -> None:
    plan = WindowPlan(fine=(8, 8), above=(4, 4), num_coarser=20, side=4)
    q, k, v = torch.randn(3, 2, 2, 84, 8)
    window_of = torch.full((84, 2), -1)
    for grid, side, start in ((4, 2, 4), (8, 4, 20)):
        shift = side // 2 if shifted else 0
        axis = torch.arange(grid).sub(shift).remainder(grid) // side
        window_of[start : start + grid * grid] = torch.cartesian_prod(axis, axis)
    same = (window_of[:, None] == window_of[None]).all(-1)
    allowed = torch.zeros(84, 84, dtype=torch.bool)
    allowed[:20, :20] = True
    allowed[20:, 4:] = same[20:, 4:]

    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    assert torch.allclose(windowed_attention(q, k, v, plan, shifted=shifted), expected, atol=1e-5)


def test_a_windowed_prior_trains_and_a_window_that_does_not_fit_is_refused() -> None:
    prior = make_prior(window=4, grids=[(4, 4), (8, 8)])
    codes = [torch.randint(0, SIZES[0], (4, 16)), torch.randint(0, SIZES[1], (4, 64))]
    loss, _ = masked_loss(prior, SIZES, codes, make_class(4), torch.arange(4), Draw(0, 0, Noise()))
    loss.backward()
    assert all(p.grad is not None for p in prior.parameters())
    with pytest.raises(ValueError, match="multiple of 4"):
        WindowPlan(fine=(8, 8), above=(4, 4), num_coarser=16, side=6)


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
    draw = Draw(3, 5, Noise(token_dropout=0.1))

    def loss(rows: slice) -> torch.Tensor:
        part = {"class": conditions["class"].map(lambda x: x[rows])}
        return learn(prior, SIZES, [c[rows] for c in codes], part, torch.arange(100, 112)[rows], draw)[0]

    whole = loss(slice(0, 12))
    for cut in (1, 3, 6):
        parts = torch.stack([loss(slice(i, i + cut)) for i in range(0, 12, cut)])
        assert torch.allclose(parts.mean(), whole, atol=1e-5)


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
    loss, metrics = learn(prior, SIZES, make_codes(1), told, torch.tensor([row]), Draw(0, 0, Noise()))
    loss.backward()
    assert [name for name, p in prior.named_parameters() if p.grad is None] == []
    assert set(metrics) == {"loss_level0", "loss_level1"} and loss.isfinite()


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
    exact = sum(torch.nn.functional.cross_entropy(logits.flatten(0, 1), c.flatten()) for logits, c in levels)

    assert torch.stack(turns).mean().item() == pytest.approx(torch.as_tensor(exact).item(), rel=1e-5)


def test_a_prior_of_one_level_learns_it_from_every_row() -> None:
    prior = Prior(kind="autoregressive", grids=[(4, 4)], codebook_sizes=[11], conditions={}, width=16, depth=1, heads=2)
    draw = Draw(0, 1, Noise(corrupt=0.0, whole_every=4))
    _, metrics = causal_loss(prior, [11], [torch.zeros(3, 16, dtype=torch.int64)], {}, torch.arange(3), draw)
    assert metrics["loss_level0"] > 0


@pytest.mark.parametrize("fold", [False, True])
def test_surprise_is_the_negative_log_likelihood_in_bits(fold: bool) -> None:
    prior, codes = make_prior("autoregressive", fold=fold), make_codes(2)
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


def test_a_saved_prior_comes_back_and_damage_is_told(tmp_path: Path) -> None:
    from stages.codes.read import CodeSet
    from stages.prior.load import save_prior
    from stages.prior.settings import SampleSettings

    prior = make_prior()
    codes = CodeSet(None, "abc", [(2, 2), (4, 4)], SIZES, ["a", "b", "c"], 32, 1)  # type: ignore[arg-type]
    with pytest.raises(MissingInputError):
        load_prior(tmp_path)
    save_prior(prior, tmp_path / "model", codes, SampleSettings(guidance=3.0, steps=(4, 6)))
    again, about = load_prior(tmp_path)
    shown, guide = make_codes(2), {}
    assert torch.equal(
        prior.hidden_logits(shown, prior.guide(guide, {}, 2)), again.hidden_logits(shown, again.guide({}, {}, 2))
    )
    assert SampleSettings.of(about["sampling"]).steps == (4, 6) and about["classes"] == ["a", "b", "c"]

    path = tmp_path / "model" / "config.json"  # as it was before conditions were centred and tables had looks
    old = json.loads(path.read_text())
    for name in ("attend", "attend_every", "shared", "code_widths"):
        del old["model"][name]
    old["model"]["cross_attention"] = True
    path.write_text(json.dumps(old))
    before = make_prior(attend=["class"])
    weights = {name: one.contiguous() for name, one in before.state_dict().items() if not name.endswith(".mean")}
    save_file(weights, tmp_path / "model" / "model.safetensors")
    again, told = load_prior(tmp_path)[0], make_class(2)
    assert torch.equal(
        before.hidden_logits(shown, before.guide(told, {}, 2)), again.hidden_logits(shown, again.guide(told, {}, 2))
    )
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x10" * 50)
    with pytest.raises(DataError, match="--redo prior"):
        load_prior(tmp_path)


def test_configs_and_models_refuse_what_cannot_work() -> None:
    with pytest.raises(ValueError, match="Try 128"):
        PriorConfig(width=130)
    with pytest.raises(ValueError, match="masked"):
        PriorConfig(kind="autoregressive", window=8)
    with pytest.raises(ValueError, match="drop_all"):
        PriorConfig(drop_all=1.0)
    with pytest.raises(ValueError, match="multiple of the coarser"):
        make_prior(grids=[(2, 2), (3, 4)])
    with pytest.raises(ValueError, match="'masked' or 'autoregressive'"):
        make_prior(kind="diffusion")
