"""Birds at any size and count: picture, captions and call, each a pure function of (seed, index)."""

from data_prep.birds.call import call
from data_prep.birds.captions import captions
from data_prep.birds.palette import BACKGROUNDS, COLOURS, HEADINGS, SIZES, SPECIES
from data_prep.birds.picture import draw
from data_prep.birds.record import sample
from data_prep.birds.scene import Bird, Scene, attributes, describe, is_of, is_unseen, kept_out

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "HEADINGS",
    "SIZES",
    "SPECIES",
    "Bird",
    "Scene",
    "attributes",
    "call",
    "captions",
    "describe",
    "draw",
    "is_of",
    "is_unseen",
    "kept_out",
    "sample",
]
