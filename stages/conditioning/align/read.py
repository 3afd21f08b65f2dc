"""Shards as `align` reads them: a crop, one of the captions, and the sound as the audio tower hears it.

Shapes: s side of a crop, f frames and m mel bands of a sound.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.samples import Sample
from pipeline.shard_index import Shard
from pipeline.shards import Draw, read_samples
from stages.conditioning.said import Said, captions_of, say, sound_of, transcript_of
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
    """The text with every word that begins as one of a pair (왼쪽에 as 왼쪽 does) beginning as the other, both ways."""
    other = {word.lower(): pair[1 - i] for pair in opposites for i, word in enumerate(pair)}
    longest_first = sorted(other, key=len, reverse=True)
    pattern = r"(?<!\w)(" + "|".join(re.escape(word) for word in longest_first) + ")"
    return re.sub(pattern, lambda found: other[found[1].lower()], text, flags=re.IGNORECASE) if other else text


@dataclass(frozen=True)
class AlignDecode:
    """A decode function of the reader.

    `image` uint8 (3, s, s); `text` and `has_text`; with an audio tower `sound` float32 (f, m) and `has_sound`.
    """

    crop: CropDecode
    prepare: Any = None
    """The feature extractor of the audio tower, if there is one."""
    seconds: float = 0.0
    any_caption: bool = True
    """Draw one of the captions; else the first."""
    speeds: tuple[float, ...] = (1.0,)
    """Play each sound at one of these."""
    transcripts: float = 0.5
    """How often the text of a sample that speaks is what it says."""

    def __call__(self, sample: Sample, draw: Draw) -> dict[str, Any]:
        fields: dict[str, Any] = dict(self.crop(sample, draw))
        captions = captions_of(sample)
        if (transcript := transcript_of(sample)) and (
            not captions or draw.rng("transcript").random() < self.transcripts
        ):
            captions = [transcript]  # words beside their own sound: what speech is learned from
        place = int(draw.rng("caption").integers(len(captions))) if captions and self.any_caption else 0
        fields |= {"text": captions[place] if captions else "", "has_text": int(bool(captions))}
        if self.prepare is not None:
            sound = sound_of(sample)
            speed = self.speeds[int(draw.rng("speed").integers(len(self.speeds)))]
            fields |= {"sound": self._heard(sound, speed), "has_sound": int(sound is not None)}
        return fields

    def _heard(self, sound: Sound | None, speed: float) -> np.ndarray:
        rate = self.prepare.sampling_rate
        if sound is None:
            samples = np.zeros(rate // 5, np.float32)
        else:
            samples = heard((sound[0], round(sound[1] * speed)), rate, self.seconds)
        features = self.prepare(samples, sampling_rate=rate, return_tensors="np")["input_values"][0]
        return np.asarray(features, dtype=np.float32)
