"""Conditions and the mixer: nulls where absent or dropped, draws that follow the global row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stages.conditioning.condition import (
    BESIDE,
    PICTURE_DROPPED,
    Condition,
    choose_rows,
    class_condition,
    draw_kept,
    keep_all,
    repeat_rows,
    without_words,
)
from stages.conditioning.mixer import ConditionMixer


def make_text(rows: int, tokens: int = 5, dim: int = 6) -> Condition:
    return Condition(torch.randn(rows, tokens, dim), torch.randn(rows, dim), torch.ones(rows, tokens, dtype=torch.bool))


def test_a_class_is_one_token_and_label_minus_one_is_absent() -> None:
    condition = class_condition(torch.tensor([2, -1, 0]), 4)

    assert condition.pooled.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert torch.equal(condition.tokens[:, 0], condition.pooled)
    assert condition.present().tolist() == [True, False, True]


def test_dropped_and_absent_conditions_are_the_same_learned_null_whatever_their_value() -> None:
    mixer = ConditionMixer(8, {"class": 4})
    labels = torch.tensor([0, 3, -1])

    dropped = mixer({"class": class_condition(labels, 4)}, {"class": torch.tensor([False, False, True])}, 3)
    absent = mixer({}, {}, 3)

    assert torch.equal(dropped.pooled, absent.pooled) and torch.equal(dropped.tokens, absent.tokens)
    assert torch.equal(dropped.pooled, mixer.modalities["class"].null_pooled.expand(3, -1))
    kept = mixer({"class": class_condition(labels, 4)}, {}, 3)
    assert not torch.equal(kept.pooled[0], kept.pooled[1]) and torch.equal(kept.pooled[2], absent.pooled[0])


def test_the_null_of_a_longer_modality_is_one_token_and_padding_stays_hidden() -> None:
    mixer = ConditionMixer(8, {"class": 4, "text": 6})
    text = make_text(2)
    text.mask[1, 3:] = False
    conditions = {"text": text, "class": class_condition(torch.tensor([1, 1]), 4)}

    mixed = mixer(conditions, {"text": torch.tensor([True, False])}, 2)
    assert mixed.tokens.shape == (2, 1 + 5, 8)
    assert mixed.mask.tolist() == [[True] * 6, [True, True, False, False, False, False]]
    both = mixer(conditions, {}, 2)
    assert both.mask[1].tolist() == [True, True, True, True, False, False]


def test_dropping_one_modality_leaves_the_other_untouched() -> None:
    mixer = ConditionMixer(8, {"class": 4, "text": 6})
    conditions = {"text": make_text(2), "class": class_condition(torch.tensor([1, 2]), 4)}
    gone = torch.zeros(2, dtype=torch.bool)

    both, without = mixer(conditions, {}, 2), mixer(conditions, {"text": gone}, 2)
    assert torch.equal(both.tokens[:, :1], without.tokens[:, :1])
    text = mixer.modalities["text"]
    expected = both.pooled - text.pooled(text.normed(text.normed(conditions["text"].pooled))) + text.null_pooled
    assert torch.allclose(without.pooled, expected, atol=1e-6)


@pytest.mark.parametrize("layers", [0, 2])
def test_every_weight_gets_a_gradient_even_when_all_is_absent(layers: int) -> None:
    mixer = ConditionMixer(8, {"class": 4, "text": 6}, layers=layers, heads=2)
    mixed = mixer({}, {}, 3)
    (mixed.pooled.sum() + mixed.tokens.sum()).backward()
    assert all(p.grad is not None for p in mixer.parameters())


def test_layers_over_the_tokens_look_both_ways_and_never_at_padding() -> None:
    mixer = ConditionMixer(8, {"class": 4, "text": 6}, layers=1, heads=2)
    text, labels = make_text(2), class_condition(torch.tensor([1, 2]), 4)
    text.mask[1, 3:] = False

    def tokens(change: int) -> torch.Tensor:
        moved = text.tokens.clone()
        moved[:, change] = torch.randn(2, 6)
        return mixer({"text": Condition(moved, text.pooled, text.mask), "class": labels}, {}, 2).tokens

    before = mixer({"text": text, "class": labels}, {}, 2).tokens
    later = (tokens(4) - before).abs().sum(dim=2)
    assert (later[0] > 1e-6).all()  # the class and the first words know of the last one
    assert torch.equal(later[1, :4], torch.zeros(4))  # where that is padding, nothing does
    gone = {"text": torch.zeros(2, dtype=torch.bool)}
    without = mixer({"text": text, "class": labels}, gone, 2)
    absent = mixer({"class": labels}, {}, 2)
    assert torch.allclose(without.tokens[:, :2], absent.tokens[:, :2], atol=1e-6)


def test_a_model_that_reads_no_tokens_has_no_weights_for_them() -> None:
    mixer = ConditionMixer(8, {"class": 4}, attend=(), layers=1)
    mixed = mixer({"class": class_condition(torch.tensor([1, 2]), 4)}, {}, 2)
    assert mixed.tokens.shape == (2, 0, 8) and mixed.mask.shape == (2, 0)
    mixed.pooled.sum().backward()
    assert all(p.grad is not None for p in mixer.parameters())


def test_vectors_of_one_space_go_through_one_projection_whatever_their_encoders_mean() -> None:
    mixer = ConditionMixer(8, {"text": 6, "audio": 7, "class": 4}, attend=["text"], shared={"audio": 6, "text": 6})
    text, audio = make_text(30), make_text(30, dim=7)
    audio.pooled[:, :6], audio.pooled[:, 6] = text.pooled, 0.0  # what is behind the space is padding
    offset = torch.randn(6)
    far = Condition(audio.tokens, audio.pooled + torch.cat([offset, torch.zeros(1)]), audio.mask)

    def pooled(**told: Condition) -> torch.Tensor:
        nulls = sum(mixer.modalities[name].null_pooled for name in mixer.modalities if name not in told)
        return mixer(told, {}, 30).pooled - nulls

    assert torch.allclose(pooled(text=text), pooled(audio=audio), atol=1e-6)
    assert not torch.allclose(pooled(text=text), pooled(audio=far), atol=0.1)
    mixer.centre([{"text": text, "audio": audio}], 30)
    louder = Condition(audio.tokens, 3 * audio.pooled + 1, audio.mask)
    assert torch.allclose(pooled(text=text), pooled(audio=louder), atol=1e-4)
    both = pooled(text=text, audio=audio)
    assert torch.allclose(both, pooled(text=text), atol=1e-4)  # who says it twice does not say it louder
    other = make_text(30, dim=7)
    told = mixer.modalities["text"].vectors(text) + mixer.modalities["audio"].vectors(other)
    mixed = pooled(text=text, audio=other)
    assert torch.allclose(mixed, mixer.space(F.layer_norm(told, (6,))), atol=1e-5)
    turned = F.layer_norm(torch.randn(6), (6,))
    cone = Condition(text.tokens, F.layer_norm(text.pooled, (6,)) + turned, text.mask)
    before = pooled(text=cone).var(dim=0).sum()
    mixer.centre([{"text": cone, "audio": audio}], 30)
    assert pooled(text=cone).var(dim=0).sum() > 1.2 * before  # what all of them say is gone
    assert not mixer.modalities["class"].mean.any()

    mixed = mixer({"text": text, "audio": audio}, {}, 30)
    assert mixed.tokens.shape == (30, 5, 8)  # the text's alone
    (mixed.pooled.sum() + mixed.tokens.sum()).backward()
    assert all(p.grad is not None for p in mixer.parameters())


def test_the_mean_leaves_out_samples_that_say_nothing_and_old_weights_have_none() -> None:
    mixer, text = ConditionMixer(8, {"text": 6}), make_text(4)
    text.mask[2:] = False
    said = F.layer_norm(text.pooled, (6,))
    few, more = ({"text": text.map(lambda x, part=part: x[part])} for part in (slice(0, 1), slice(1, 4)))
    mixer.centre(iter([few, more, few]), 2)  # the third is not needed
    assert torch.allclose(mixer.modalities["text"].mean, said[:2].mean(dim=0), atol=1e-6)
    old = {name: one for name, one in mixer.state_dict().items() if not name.endswith("mean")}
    later = ConditionMixer(8, {"text": 6})
    later.load_state_dict(old)
    assert not later.modalities["text"].mean.any()


def test_a_model_without_conditions_mixes_nothing() -> None:
    mixed = ConditionMixer(8, {})({}, {}, 3)
    assert mixed.tokens.shape == (3, 0, 8) and not mixed.pooled.any()


def test_an_unknown_condition_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"audio.*takes class"):
        ConditionMixer(8, {"class": 4})({"audio": make_text(2)}, {}, 2)


def test_drops_follow_the_global_row_and_come_at_their_rates() -> None:
    rows = torch.arange(40_000)
    rates = {"seed": 3, "step": 7, "drop_each": 0.2, "drop_all": 0.1}
    kept = draw_kept(["text", "class"], rows, **rates)

    part = draw_kept(["class", "text"], rows[1000:2000], **rates)
    assert all(torch.equal(kept[name][1000:2000], part[name]) for name in kept)
    for name in kept:
        assert kept[name].float().mean().item() == pytest.approx(0.9 * 0.8, abs=0.01)
    named = draw_kept(["class", "text"], rows, seed=3, step=7, drop_each={"text": 0.4}, drop_all=0.0)
    assert [named[name].float().mean().item() for name in ("class", "text")] == pytest.approx([0.9, 0.6], abs=0.01)
    both_gone = (~kept["text"] & ~kept["class"]).float().mean().item()
    assert both_gone == pytest.approx(0.1 + 0.9 * 0.04, abs=0.01)
    assert not torch.equal(kept["text"], draw_kept(["text"], rows, **{**rates, "step": 8})["text"])


def test_where_the_picture_itself_is_heard_words_and_sounds_are_not() -> None:
    rows = torch.arange(40_000)
    heard = ["audio", "class", "picture", "text"]
    kept = draw_kept(heard, rows, seed=3, step=7, drop_each=0.2, drop_all=0.0)
    assert kept["picture"].float().mean().item() == pytest.approx(1 - PICTURE_DROPPED, abs=0.01)
    assert (kept["picture"] & kept["text"]).float().mean().item() == pytest.approx(0.35 * BESIDE * 0.8, abs=0.01)
    assert (kept["picture"] & kept["class"]).float().mean().item() == pytest.approx(0.35 * 0.8, abs=0.01)
    assert kept["text"].float().mean().item() == pytest.approx((0.65 + 0.35 * BESIDE) * 0.8, abs=0.01)
    part = draw_kept(heard, rows[1000:2000], seed=3, step=7, drop_each=0.2, drop_all=0.0)
    assert all(torch.equal(kept[name][1000:2000], part[name]) for name in heard)
    named = draw_kept(heard, rows, seed=3, step=7, drop_each={"picture": 0.9}, drop_all=0.0)
    assert named["picture"].float().mean().item() == pytest.approx(0.1, abs=0.01)
    alone = draw_kept(["class", "picture"], rows, seed=3, step=7, drop_each=0.2, drop_all=0.0)
    assert alone["picture"].float().mean().item() == pytest.approx(0.8, abs=0.01)  # it stands for nothing there


def test_wordless_rows_keep_their_vector_and_one_empty_token() -> None:
    text = Condition(
        torch.randn(3, 4, 2), torch.randn(3, 2), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]) > 0
    )

    heard = without_words(text, torch.tensor([True, False, True]))

    assert heard.present().tolist() == [True, True, False] and torch.equal(heard.pooled, text.pooled)
    assert heard.mask[0].tolist() == [True, False, False, False] and not heard.tokens[0].any()
    assert torch.equal(heard.tokens[1], text.tokens[1]) and torch.equal(heard.mask[1], text.mask[1])


def test_rows_are_chosen_and_repeated_in_every_tensor() -> None:
    conditions = {"text": make_text(4)}
    chosen = choose_rows(conditions, torch.tensor([False, True, False, True]))["text"]
    assert torch.equal(chosen.tokens, conditions["text"].tokens[[1, 3]])
    twice = repeat_rows(conditions, 2)["text"]
    assert torch.equal(twice.pooled, conditions["text"].pooled.repeat(2, 1)) and twice.mask.shape == (8, 5)
    assert keep_all(conditions, 3)["text"].tolist() == [True] * 3
