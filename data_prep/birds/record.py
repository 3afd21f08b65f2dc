"""A scene as a stored sample: picture, class, caption, call and everything that is true of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from data_prep.birds.call import RATE, call
from data_prep.birds.captions import first_sentences, told
from data_prep.birds.palette import SPECIES
from data_prep.birds.picture import draw
from data_prep.birds.scene import TWO_BIRDS, Scene, attributes, describe
from data_prep.birds.spoken import sayable, spoken
from data_prep.images import encode_image
from data_prep.sounds import encode_flac
from pipeline.randomness import numpy_rng
from pipeline.samples import Sample, encode_json


def _sound(scene: Scene, sentences: list[str], record: dict[str, Any], share_spoken: float) -> np.ndarray:
    short = sayable(sentences) if share_spoken and len(scene.birds) == 1 else []
    if short and numpy_rng(scene.seed, "bird speaks", scene.index).random() < share_spoken:
        sound, sentence, voicing = spoken(scene, short)
        named = first_sentences(scene)[sentence]
        record |= {"spoken": sentence, "spoken_named": named, "voice": voicing.voice}
        return sound
    return call(scene)


def sample(
    seed: int,
    index: int,
    size: int,
    with_sound: bool = True,
    extension: str = "png",
    quality: int = 95,
    share_spoken: float = 0.0,
    pairs: float = TWO_BIRDS,
) -> Sample:
    """Scene `index` with members `<extension>`, `cls`, `txt`, `json` and, with a sound, `flac`.

    The sound is the bird's call or, in a share of the scenes of one bird, one of the short English captions spoken; the
    record then says under `spoken` which one. Two birds are only heard: who they are, where and in which colours is
    more than the few seconds of a short encoder hold.
    """
    scene = describe(seed, index, pairs)
    sentences, named = (list(part) for part in zip(*told(scene), strict=True))
    record = {
        "source": f"birds/{index}",
        "attributes": attributes(scene),
        "captions": sentences,
        "named": named,
        "scene": dataclasses.asdict(scene),
    }
    members = {
        extension: encode_image(draw(scene, size), extension, quality),
        "cls": str(SPECIES.index(scene.species)).encode(),
        "txt": sentences[0].encode(),
        "json": encode_json(record),
    }
    if with_sound:
        members["flac"] = encode_flac(_sound(scene, sentences, record, share_spoken)[None], RATE)
        members["json"] = encode_json(record)
    return Sample(f"{index:08d}", members)
