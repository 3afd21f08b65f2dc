"""The tokenizer of `align`: any script, one order of what is equally frequent, and what is cut is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.conditioning.align.tokenizer import train_tokenizer
from stages.conditioning.align.train import warn_of_long
from tests.tiny_encoders import WORDS


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


def test_pairs_of_letters_that_are_equally_frequent_are_learned_in_one_order() -> None:
    said = [first + second for first in "abcdefgh" for second in "ijklmnop"]
    first, second = (train_tokenizer(said, 640, 24) for _ in range(2))
    assert first.get_vocab() == second.get_vocab() and len(first.get_vocab()) == 512 + 64 + 3
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
