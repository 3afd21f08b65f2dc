"""Shards as `align` reads them: a crop, one of the captions, and the sound as the audio tower hears it.

Shapes: s side of a crop, f frames and m mel bands of a sound.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.errors import DataError
from pipeline.samples import Sample
from pipeline.shard_index import Shard
from pipeline.shards import Draw, read_samples
from stages.attributes import named_by_caption, numbers_of, says
from stages.conditioning.said import Said, say, sound_of, transcript_of
from stages.conditioning.sounds import Sound, heard
from stages.images import CropDecode

MOST_CAPTIONS, MOST_SAMPLES = 100_000, 20_000


def some_captions(shards: list[Shard]) -> Iterator[str]:
    """The captions of the first samples, in stored order."""
    texts = (text for said in _first(shards, "text") for text in said.captions)
    return islice(texts, MOST_CAPTIONS)


def some_sounds(shards: list[Shard], count: int, seconds: float, rate: int) -> list[np.ndarray]:
    """A window of each of the first sounds."""
    sounds = (said.sound for said in _first(shards, "audio"))
    return list(islice((heard(sound, rate, seconds) for sound in sounds if sound is not None), count))


def _first(shards: list[Shard], modality: str) -> Iterator[Said]:
    """What the first samples say; those that cannot be read are passed over, as in training."""
    samples = (sample for shard in shards for sample in read_samples(shard))
    for sample in islice(samples, MOST_SAMPLES):
        with contextlib.suppress(DataError):
            yield say(sample, (modality,))


def exchanged(text: str, opposites: Sequence[tuple[str, str]]) -> str:
    """The text with the words of every pair exchanged, both ways.

    Words are whole ones, `_` between them or not, but for those that are not in ASCII: what follows may be a particle
    (왼쪽에, left_body; not leftover).
    """
    other = {word.lower(): pair[1 - i] for pair in opposites for i, word in enumerate(pair)}
    longest_first = sorted(other, key=len, reverse=True)
    ends = (re.escape(word) + (r"(?![^\W_])" if word.isascii() else "") for word in longest_first)
    pattern = r"(?<![^\W_])(" + "|".join(ends) + ")"
    return (
        re.sub(pattern, lambda found: other.get(found[1].lower(), found[1]), text, flags=re.IGNORECASE)
        if other
        else text
    )


class Opposite:
    """The attributes of a caption whose opposites are exchanged: left_body is what right_body was, and right is left.

    Args:
        values: the attributes and their values.
        opposites: pairs of words.
    """

    def __init__(self, values: Mapping[str, list[str]], opposites: Sequence[tuple[str, str]]) -> None:
        names = list(values)
        others = [exchanged(name, opposites) for name in names]
        self.taken_from = [names.index(other) if other in values else i for i, other in enumerate(others)]
        self.numbers = []
        for name, other in zip(names, others, strict=True):
            meant = [exchanged(value, opposites) for value in values.get(other, values[name])]
            known = [values[name].index(value) if value in values[name] and other in values else -1 for value in meant]
            self.numbers.append(torch.tensor([*known, -1]))  # the last is that of -1: not named

    def __call__(self, labels: Int[Tensor, "n a"]) -> Int[Tensor, "n a"]:
        """The attributes of the exchanged captions."""
        columns = [numbers[labels[:, i]] for i, numbers in zip(self.taken_from, self.numbers, strict=True)]
        return torch.stack(columns, dim=1) if columns else labels


@dataclass(frozen=True)
class AlignDecode:
    """A decode function of the reader.

    `image` uint8 (3, s, s); `text` and `has_text`; with an audio tower `sound` float32 (f, m), `has_sound` and whether
    it `speaks` that very text.
    """

    crop: CropDecode
    prepare: Any = None
    """The feature extractor of the audio tower, if there is one."""
    seconds: float = 0.0
    any_caption: bool = True
    """Draw one of the captions; else the first."""
    speeds: tuple[float, ...] = (1.0,)
    """Play each sound at one of these, pitch and all."""
    tempos: tuple[float, ...] = (1.0,)
    """And at one of these, at the same pitch."""
    transcripts: float = 0.5
    """How often the text of a sample that speaks is what it says."""
    values: Mapping[str, list[str]] = field(default_factory=dict)
    """The attributes and their values: `attributes` int64 (a,), -1 where a sample has none, and which of them the text
    and each further caption names, `named` uint8 (1 + m, a)."""
    words: Mapping[str, list[str]] = field(default_factory=dict)
    """The values as captions write them; where a sample does not say what a text names (`named`), its words do."""
    more: int = 0
    """Further captions, `also0` and on; empty where a sample has no more."""

    def __call__(self, sample: Sample, draw: Draw) -> dict[str, Any]:
        fields: dict[str, Any] = dict(self.crop(sample, draw))
        captions = given = say(sample, ("text",)).captions
        transcript = transcript_of(sample)
        if transcript and (not captions or draw.rng("transcript").random() < self.transcripts):
            captions = [transcript]  # words beside their own sound: what speech is learned from
        place = int(draw.rng("caption").integers(len(captions))) if captions and self.any_caption else 0
        fields |= {"text": captions[place] if captions else "", "has_text": int(bool(captions))}
        also = [text for text in draw.rng("more").permutation(given) if text != fields["text"]] if self.more else []
        also = [str(text) for text in also[: self.more]] + [""] * (self.more - len(also))
        fields |= {f"also{i}": text for i, text in enumerate(also)}
        if self.values:
            fields |= self._attributes(sample, [fields["text"], *also])
        if self.prepare is not None:
            sound = sound_of(sample)
            speed = self.speeds[int(draw.rng("speed").integers(len(self.speeds)))]
            tempo = self.tempos[int(draw.rng("tempo").integers(len(self.tempos)))]
            fields |= {"sound": self._heard(sound, speed, tempo), "has_sound": int(sound is not None)}
            fields["speaks"] = int(sound is not None and fields["text"] == transcript != "")
        return fields

    def _attributes(self, sample: Sample, texts: list[str]) -> dict[str, np.ndarray]:
        named, numbers = named_by_caption(sample), list(numbers_of(sample, self.values).values())
        which = [
            [
                name in named[text] if text in named else number >= 0 and says(text, words[number])
                for number, (name, words) in zip(numbers, self.words.items(), strict=True)
            ]
            for text in texts
        ]
        return {"attributes": np.array(numbers, np.int64), "named": np.array(which, np.uint8)}

    def _heard(self, sound: Sound | None, speed: float, tempo: float) -> np.ndarray:
        rate = self.prepare.sampling_rate
        if sound is None:
            samples = np.zeros(rate // 5, np.float32)
        else:
            samples = heard((sound[0], round(sound[1] * speed)), rate, self.seconds)
        features = self.prepare(samples, sampling_rate=rate, return_tensors="np")["input_values"][0]
        features = np.asarray(features, dtype=np.float32)
        if tempo == 1.0:
            return features
        whole = 1 + (len(samples) - rate // 40) // (rate // 100)  # windows of 25 ms, every 10 ms
        silence = -self.prepare.mean / (2 * self.prepare.std)  # as the extractor writes it behind a sound
        return at_tempo(features, whole, tempo, silence)


def at_tempo(features: Float[np.ndarray, "f m"], count: int, tempo: float, silence: float) -> Float[np.ndarray, "f m"]:
    """The first `count` frames played so many times as fast, at their pitch; `silence` behind them.

    Slower only as far as f frames hold all of them: the end of a sentence is not to be lost.
    """
    frames = len(features)
    count = min(count, frames)
    tempo = max(tempo, count / frames)
    at = np.clip(np.arange(min(frames, max(1, round(count / tempo)))) * tempo, 0, count - 1)
    before = at.astype(np.int64)
    share = (at - before).astype(np.float32)[:, None]
    played = (1 - share) * features[before] + share * features[np.minimum(before + 1, count - 1)]
    return np.pad(played, ((0, frames - len(played)), (0, 0)), constant_values=silence)
