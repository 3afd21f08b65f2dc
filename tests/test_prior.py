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
from pipeline.training_config import DataConfig, OptimizerConfig
from stages.conditioning.align.config import AlignConfig
from stages.conditioning.condition import Condition, class_condition
from stages.conditioning.source_codes import image_condition
from stages.prior.code_table import CodeTable
from stages.prior.config import PriorConfig
from stages.prior.fold import folds_of
from stages.prior.foretelling import Projection
from stages.prior.load import load_prior
from stages.prior.loss import Draw, Noise, masked_loss
from stages.prior.model import Prior
from stages.prior.settings import SampleSettings
from stages.prior.train import attended, is_alone, start_from
from stages.prior.transformer import rotary_table, rotate
from stages.prior.window import WindowPlan, windowed_attention

SIZES = [7, 11]
KINDS = {
    "masked": {},
    "folded": {"fold": True},
    "autoregressive": {"kind": "autoregressive"},
    "autoregressive folded": {"kind": "autoregressive", "fold": True},
    "foretold": {"foretells": True},
    "autoregressive foretold": {"kind": "autoregressive", "fold": True, "foretells": True},
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


def test_a_projected_vector_says_something_of_its_own_at_every_place() -> None:
    torch.manual_seed(0)
    wide = Projection(16, [(6, 20), (12, 40)])  # 6 x 5 cells: the most that divide the sides
    coarse, fine = wide(torch.randn(3, 16)).split([120, 480], dim=1)
    coarse, fine = coarse.unflatten(1, (6, 20)), fine.unflatten(1, (12, 40))
    assert torch.equal(coarse[:, :, 0], coarse[:, :, 3]) and not torch.equal(coarse[:, :, 3], coarse[:, :, 4])
    assert torch.equal(fine[:, 0, 0], fine[:, 1, 7]) and not torch.equal(fine[:, 1, 0], fine[:, 2, 0])

    def said(**changes: Any) -> torch.Tensor:
        prior = make_prior(width=16, depth=1, grids=[(4, 4)], codebook_sizes=[7], **changes)
        with torch.no_grad():
            for one in (prior.trunk.blocks[0].modulation, prior.trunk.modulation):  # nothing is said everywhere
                one.weight.zero_()
        hidden = [torch.full((2, 16), 7)]
        logits = prior.hidden_logits(hidden, prior.guide(make_class(2), {}, 2))
        return logits[1] - logits[0]

    assert not said().any()
    assert said(foretells=True).std(dim=0).min() > 1e-4


def test_weights_of_a_prior_that_foretells_otherwise_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for there, here, hint in ((False, True, True), (True, False, False)):
        weights = {k: v.contiguous() for k, v in make_prior(foretells=there).state_dict().items()}
        save_file(weights, tmp_path / "model" / "model.safetensors")
        start_from(make_prior(foretells=there), tmp_path)
        with pytest.raises(ConfigError, match="another shape") as refused:
            start_from(make_prior(foretells=here), tmp_path)
        assert ("set prior.foretold=0" in str(refused.value)) is hint


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
    with pytest.raises(ValueError, match=r"attend names text, and prior.conditions does not"):
        PriorConfig(conditions=("class",), attend=("text",))


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


@pytest.mark.parametrize("row", [4, 5])  # nobody's turn to learn the windowed level, and somebody's
def test_a_windowed_prior_learns_from_a_single_row(row: int) -> None:
    prior = make_prior(window=4, grids=[(4, 4), (8, 8)])
    codes = [torch.randint(0, size, (1, n)) for size, n in zip(SIZES, (16, 64), strict=True)]
    loss, _ = masked_loss(prior, SIZES, codes, make_class(1), torch.tensor([row]), Draw(0, 0, Noise()))
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in prior.parameters())


def test_a_windowed_prior_trains_and_a_window_that_does_not_fit_is_refused() -> None:
    prior = make_prior(window=4, grids=[(4, 4), (8, 8)])
    codes = [torch.randint(0, SIZES[0], (4, 16)), torch.randint(0, SIZES[1], (4, 64))]
    loss, _ = masked_loss(prior, SIZES, codes, make_class(4), torch.arange(4), Draw(0, 0, Noise()))
    loss.backward()
    assert all(p.grad is not None for p in prior.parameters())
    with pytest.raises(ValueError, match="multiple of 4"):
        WindowPlan(fine=(8, 8), above=(4, 4), num_coarser=16, side=6)
    with pytest.raises(ValueError, match="multiple of 4"):
        make_prior(window=6, grids=[(4, 4), (8, 8)])
    with pytest.raises(ValueError, match="one level alone"):
        make_prior(window=4, grids=[(8, 8)], codebook_sizes=[7])


def test_a_saved_prior_comes_back_and_damage_is_told(tmp_path: Path) -> None:
    from stages.codes.read import CodeSet
    from stages.prior.load import save_prior

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
    for name in ("attend", "attend_every", "shared", "code_widths", "foretells"):
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
    for wrong, message in (
        ({"drop_each": {"auto": 0.3}}, "got auto"),
        ({"sampling": SampleSettings(guidance={"txet": 4})}, "got txet"),
        ({"foretold": 0.0, "sampling": SampleSettings(foretold=0.5)}, "they foretell nothing"),
        ({"eval_samples": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            PriorConfig(**wrong)  # type: ignore[arg-type]
    for wrong in ({"patch": 0}, {"val_samples": 0}):
        with pytest.raises(ValueError, match=r"got 0\.|patch=0|got .* 0, 0\.07"):
            AlignConfig(**wrong)  # type: ignore[arg-type]
    for wrong in ({"workers": -1}, {"shuffle_shards": 0}, {"shuffle_buffer": 0}):
        with pytest.raises(ValueError, match="at least"):
            DataConfig(**wrong)
    with pytest.raises(ValueError, match="0 for none; got -1"):
        OptimizerConfig(clip=-1)
    with pytest.raises(ValueError, match="multiple of the coarser"):
        make_prior(grids=[(2, 2), (3, 4)])
    with pytest.raises(ValueError, match="'masked' or 'autoregressive'"):
        make_prior(kind="diffusion")


def test_a_picture_that_shares_no_space_with_words_is_alone() -> None:
    assert is_alone("picture", ["class", "picture", "text"], {})
    assert is_alone("picture", ["picture", "text", "vector"], {"picture": 32, "vector": 32})
    assert not is_alone("picture", ["picture", "text", "audio"], {"picture": 32, "audio": 32})
    assert not is_alone("picture", ["picture", "class"], {})
    assert not is_alone("picture", ["text", "audio"], {})
