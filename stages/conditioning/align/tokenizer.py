"""A CLIP tokenizer of our own: byte-level BPE, trained on the captions, so that any script can be read.

The alphabet holds every byte, alone and at the end of a word: a text in a script that no caption uses is long, never
unknown. Everything else (lower case, splitting into words) is CLIP's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
WORD_END = "</w>"


def train_tokenizer(captions: Iterable[str], vocabulary: int, longest: int) -> CLIPTokenizer:
    """Learn the merges; the same captions give the same tokenizer, in every process."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    pattern = CLIPTokenizer().backend_tokenizer  # CLIP's own way of cleaning and splitting text
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END, continuing_subword_prefix=""))
    learner.normalizer, learner.pre_tokenizer = pattern.normalizer, pattern.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    endings = [letter + WORD_END for letter in letters]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 3,
        initial_alphabet=letters,
        # Left to itself the trainer numbers them as it meets them, in the order of a hash table seeded anew in every
        # process, and their numbers decide between pairs that are equally frequent (huggingface/tokenizers #1794).
        special_tokens=endings,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    learned = json.loads(learner.to_str())["model"]
    words = [*letters, *endings]
    words += [word for word in sorted(learned["vocab"], key=learned["vocab"].get) if word not in set(words)]
    vocab = {word: i for i, word in enumerate([*words, PAD, START, END])}
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in learned["merges"]]
    make: Any = CLIPTokenizer
    return make(  # type: ignore[no-any-return]
        vocab=vocab, merges=merges, bos_token=START, eos_token=END, unk_token=END, pad_token=PAD,
        model_max_length=longest,
    )  # fmt: skip


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """As `AutoTokenizer.from_pretrained` reads it."""
    tokenizer.save_pretrained(str(folder))
