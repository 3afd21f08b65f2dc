"""The stage `align`: exact gradients however a batch is cut, no false negatives, models that load as OpenAI's would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data_prep.images import encode_image
from pipeline.batch import Draw
from pipeline.samples import Sample
from stages.conditioning.align.config import AlignConfig
from stages.conditioning.align.loss import SWAPPED, Bank, contrastive_loss, recalls
from stages.conditioning.align.read import AlignDecode, exchanged
from stages.conditioning.align.tokenizer import train_tokenizer
from stages.conditioning.align.train import warn_of_long
from stages.images import CropDecode
from tests.tiny_encoders import WORDS

ROWS, WIDTH = 12, 5


def make_bank(seed: int = 0, captions: torch.Tensor | None = None) -> Bank:
    generator = torch.Generator().manual_seed(seed)
    vectors = {
        name: F.normalize(torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64), dim=1)
        for name in ("image", "text", "audio")
    }
    everywhere = torch.ones(ROWS, dtype=torch.bool)
    some = torch.arange(ROWS) % 3 != 0
    return Bank(vectors, {"image": everywhere, "text": everywhere, "audio": some}, _captions(captions))


def _captions(given: torch.Tensor | None) -> torch.Tensor:
    return torch.arange(ROWS) if given is None else given


def brute_force(bank: Bank, scale: float) -> float:
    """The definition, row by row."""
    losses = []
    swapped = bank.vectors.get(SWAPPED)
    for a, b in (("audio", "image"), ("audio", "text"), ("image", "text")):
        rows = [i for i in range(ROWS) if bank.present[a][i] and bank.present[b][i]]
        terms = []
        for i in rows:
            for x, y in ((a, b), (b, a)):
                others = [j for j in rows if j == i or not ("text" in (a, b) and bank.caption[i] == bank.caption[j])]
                against = [bank.vectors[y][j] for j in others]
                if swapped is not None and (x, y) == ("image", "text") and bank.present[SWAPPED][i]:
                    against.append(swapped[i])
                logits = torch.stack([scale * bank.vectors[x][i] @ vector for vector in against])
                terms.append(torch.logsumexp(logits, 0) - scale * bank.vectors[x][i] @ bank.vectors[y][i])
        losses.append(torch.stack(terms).mean())
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("captions", [torch.arange(ROWS), torch.arange(ROWS) // 4])
def test_the_loss_is_its_definition(captions: torch.Tensor) -> None:
    bank = make_bank(captions=captions)
    loss, _ = contrastive_loss(bank, torch.tensor(7.0, dtype=torch.float64))
    assert float(loss) == pytest.approx(brute_force(bank, 7.0), abs=1e-9)


def test_a_caption_made_wrong_is_a_negative_of_its_own_picture() -> None:
    plain, bank = make_bank(), with_swapped(make_bank())
    loss, _ = contrastive_loss(bank, torch.tensor(7.0, dtype=torch.float64))
    assert float(loss) == pytest.approx(brute_force(bank, 7.0), abs=1e-9)
    assert loss > contrastive_loss(plain, torch.tensor(7.0, dtype=torch.float64))[0]


def with_swapped(bank: Bank) -> Bank:
    """Every second row has a caption made wrong."""
    wrong = F.normalize(bank.vectors["text"] + bank.vectors["image"], dim=1)
    rows = torch.arange(ROWS) % 2 == 0
    return Bank(bank.vectors | {SWAPPED: wrong}, bank.present | {SWAPPED: rows}, bank.caption)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("A red bird to the Left of a bright blue one", "A red bird to the right of a bright blue one"),
        ("왼쪽에 빨간 새, 오른쪽은 파란 새", "오른쪽에 빨간 새, 왼쪽은 파란 새"),
        ("a leftover", "a rightover"),
        ("a bright bird", "a bright bird"),
    ],
)
def test_words_are_exchanged_both_ways(text: str, wrong: str) -> None:
    assert exchanged(text, [("left", "right"), ("왼쪽", "오른쪽")]) == wrong
    assert exchanged(text, []) == text


def test_opposites_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(ValueError, match="each in one pair"):
        AlignConfig(opposites=(("left", "right"), ("Left", "up")))
    with pytest.raises(ValueError, match="stays as it is"):
        AlignConfig(opposites=(("left", "right"),), pretrained="somewhere")


def test_identical_captions_do_not_push_each_other_away() -> None:
    apart, _ = contrastive_loss(make_bank(), torch.tensor(7.0))
    alike, _ = contrastive_loss(make_bank(captions=torch.zeros(ROWS, dtype=torch.int64)), torch.tensor(7.0))
    assert alike < apart


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_gradients_are_those_of_the_whole_batch(pieces: int) -> None:
    torch.manual_seed(1)
    inputs = torch.randn(ROWS, WIDTH, dtype=torch.float64)
    names = ("image", "text", "audio", SWAPPED)
    weight = {name: torch.randn(WIDTH, WIDTH, dtype=torch.float64) for name in names}
    like = with_swapped(make_bank())

    def vectors(w: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
        return {name: F.normalize(inputs[rows] @ w[name], dim=1) for name in w}

    whole = {name: w.clone().requires_grad_() for name, w in weight.items()}
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    contrastive_loss(Bank(vectors(whole, slice(0, ROWS)), like.present, like.caption), scale)[0].backward()

    cut = {name: w.clone().requires_grad_() for name, w in weight.items()}
    cut_scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    numbers = Bank({k: v.detach() for k, v in vectors(cut, slice(0, ROWS)).items()}, like.present, like.caption)
    size = ROWS // pieces
    for first in range(0, ROWS, size):
        shared = cut_scale.detach() + (cut_scale - cut_scale.detach()) / pieces
        bank = numbers.with_rows(vectors(cut, slice(first, first + size)), first)
        contrastive_loss(bank, shared)[0].backward()

    for name in weight:
        torch.testing.assert_close(cut[name].grad, whole[name].grad)
    torch.testing.assert_close(cut_scale.grad, scale.grad)


def test_recall_counts_the_own_row_and_those_alike() -> None:
    queries = torch.eye(6)
    shifted = queries.roll(1, 0)  # the nearest of row i is row i + 1
    own = torch.eye(6, dtype=torch.bool)
    assert recalls(queries, queries, own) == {"R@1": 1.0, "R@5": 1.0}
    assert recalls(queries, shifted, own)["R@1"] == 0.0
    assert recalls(queries, shifted, own | own.roll(1, 1))["R@1"] == 1.0


@pytest.mark.parametrize(
    ("share", "heard"), [(0.0, {"a small bird"}), (1.0, {"an owl"}), (0.5, {"a small bird", "an owl"})]
)
def test_what_is_said_aloud_is_the_text_as_often_as_asked(share: float, heard: set[str]) -> None:
    picture = encode_image(np.zeros((8, 8, 3), np.uint8), "png", 95)
    sample = Sample("0", {"png": picture, "txt": b"a small bird", "json": b'{"spoken": "an owl"}'})
    decode = AlignDecode(CropDecode(8), transcripts=share)
    assert {decode(sample, Draw(0, 0, 0, row))["text"] for row in range(20)} == heard
    with pytest.raises(ValueError, match="transcripts lies in"):
        AlignConfig(transcripts=1.5)


def test_captions_longer_than_the_tower_are_said_to_be_cut(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = train_tokenizer(WORDS, 700, 8)
    warn_of_long(tokenizer, ["a red bird"], 8)
    assert not caplog.text
    warn_of_long(tokenizer, ["a red bird", "a red bird " * 9], 8)
    assert "50.0 % of the captions are longer than the text tower's 8 tokens (align.text_tokens)" in caplog.text


def test_the_tokenizer_reads_any_script_and_splits_its_own_words_little(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(WORDS * 3, 700, 24)
    tokenizer.save_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))

    assert len(loaded(WORDS[0])["input_ids"]) == 2 + len(WORDS[0].split())
    assert loaded(WORDS[0])["input_ids"] == tokenizer(WORDS[0])["input_ids"]
    for text in ("작은 새", "дом", "เธอ", "a bird!"):
        ids = loaded(text)["input_ids"]
        assert loaded.eos_token_id not in ids[1:-1]
        assert loaded.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
