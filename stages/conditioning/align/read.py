"""Shards as `align` reads them: a crop, one of the captions, and the sound as the audio tower hears it.

Shapes: s side of a crop, f frames and m mel bands of a sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from pipeline.samples import Sample
from pipeline.shard_index import Shard
from pipeline.shards import Draw, read_samples
from stages.conditioning.said import captions_of, sound_of
from stages.conditioning.sounds import Sound, window
from stages.images import CropDecode

MOST_CAPTIONS = 100_000


def some_captions(shards: list[Shard]) -> Iterator[str]:
    """The captions of the first samples, in stored order."""
    texts = (text for shard in shards for sample in read_samples(shard) for text in captions_of(sample))
    return islice(texts, MOST_CAPTIONS)


def some_sounds(shards: list[Shard], count: int) -> list[Sound]:
    """The first sounds."""
    found = (sound_of(sample) for shard in shards for sample in read_samples(shard))
    return list(islice((sound for sound in found if sound is not None), count))


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

    def __call__(self, sample: Sample, draw: Draw) -> dict[str, Any]:
        fields: dict[str, Any] = dict(self.crop(sample, draw))
        captions = captions_of(sample)
        place = int(draw.rng("caption").integers(len(captions))) if captions and self.any_caption else 0
        fields |= {"text": captions[place] if captions else "", "has_text": int(bool(captions))}
        if self.prepare is not None:
            sound = sound_of(sample)
            fields |= {"sound": self._heard(sound), "has_sound": int(sound is not None)}
        return fields

    def _heard(self, sound: Sound | None) -> np.ndarray:
        rate = self.prepare.sampling_rate
        samples = np.zeros(rate // 5, np.float32) if sound is None else window(sound, rate, self.seconds)
        heard = self.prepare(samples, sampling_rate=rate, return_tensors="np")["input_values"][0]
        return np.asarray(heard, dtype=np.float32)
