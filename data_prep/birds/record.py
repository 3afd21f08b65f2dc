"""A scene as a stored sample: picture, class, caption, call and everything that is true of it."""

from __future__ import annotations

import dataclasses

from data_prep.birds.call import RATE, call
from data_prep.birds.captions import captions
from data_prep.birds.palette import SPECIES
from data_prep.birds.picture import draw
from data_prep.birds.scene import attributes, describe
from data_prep.images import encode_image
from data_prep.sounds import encode_flac
from pipeline.samples import Sample, encode_json


def sample(
    seed: int, index: int, size: int, with_call: bool = True, extension: str = "png", quality: int = 95
) -> Sample:
    """Scene `index` with members `<extension>`, `cls`, `txt`, `json` and, with a call, `flac`."""
    scene = describe(seed, index)
    sentences = captions(scene)
    record = {
        "source": f"birds/{index}",
        "attributes": attributes(scene),
        "captions": sentences,
        "scene": dataclasses.asdict(scene),
    }
    members = {
        extension: encode_image(draw(scene, size), extension, quality),
        "cls": str(SPECIES.index(scene.species)).encode(),
        "txt": sentences[0].encode(),
        "json": encode_json(record),
    }
    if with_call:
        members["flac"] = encode_flac(call(scene)[None], RATE)
    return Sample(f"{index:08d}", members)
