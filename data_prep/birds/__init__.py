"""Birds at any size and count, each a pure function of (seed, index)."""

from data_prep.birds.palette import BACKGROUNDS, COLOURS, SIZES, SPECIES
from data_prep.birds.picture import draw
from data_prep.birds.scene import Scene, attributes, describe, is_unseen

__all__ = ["BACKGROUNDS", "COLOURS", "SIZES", "SPECIES", "Scene", "attributes", "describe", "draw", "is_unseen"]
