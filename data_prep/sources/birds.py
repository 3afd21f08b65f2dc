"""The built-in source: drawn birds, a pure function of (seed, index, size). Reads no file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from data_prep.config import ShardsConfig
from data_prep.items import Item, Listing, Members
from pipeline.errors import ConfigError

NAME = "birds"
DEFAULT_COUNT = 20_000
LOOKED_AT, RAREST = 20_000, 0.002
"""So many scenes are drawn before it is asked whether the share of those that are fit is too small."""


def list_birds(cfg: ShardsConfig) -> Listing:
    """`cfg.count` scenes for train and val, and for the split `unseen` the first ones whose pair is held out.

    `unseen` gets the share `cfg.val` of `cfg.count`; it never mixes with train or val, and is left out where no colour
    asked for is kept out of train for its species.

    Raises:
        ConfigError: hardly a scene is of the species and colours asked for.
    """
    from data_prep.birds import COLOURS, SPECIES, describe, is_of, is_unseen, kept_out
    from data_prep.birds.spoken import check_speaker

    if cfg.spoken and cfg.with_sounds:
        check_speaker()
    species, colours = cfg.species or SPECIES, cfg.colours or COLOURS
    wanted = cfg.count or DEFAULT_COUNT
    held_out = math.ceil(cfg.val * wanted) if any(set(colours) & kept_out(kind) for kind in species) else 0
    items: list[Item] = []
    index = seen = unseen = 0
    while seen < wanted or unseen < held_out:
        scene = describe(cfg.seed, index, cfg.pairs)
        index += 1
        if not is_of(scene, species, colours):
            if index % LOOKED_AT == 0 and seen + unseen < RAREST * index:
                raise ConfigError(
                    f"shards: of {index} drawn scenes {seen + unseen} are of the species and colours asked for. Name "
                    "more shards.species or shards.colours, or set shards.pairs=0: of few colours two birds are rare."
                )
        elif is_unseen(scene):
            unseen += 1
            if unseen <= held_out:
                items.append(Item(f"{NAME}/{scene.index}", "unseen"))
        else:
            seen += 1
            if seen <= wanted:
                items.append(Item(f"{NAME}/{scene.index}"))
    return Listing(NAME, tuple(species), items, BirdMembers(cfg, tuple(species)))


@dataclass(frozen=True)
class BirdMembers:
    """Draw one scene at the stored size, write its captions, sing its call."""

    cfg: ShardsConfig
    species: tuple[str, ...]

    def __call__(self, item: Item) -> Members:
        """Members of the scene whose number stands in `item.source`."""
        from data_prep.birds import SPECIES, sample

        index = int(item.source.rpartition("/")[2])
        extension = "png" if self.cfg.format == "keep" else self.cfg.format
        drawn = sample(
            self.cfg.seed,
            index,
            self.cfg.stored_side,
            self.cfg.with_sounds,
            extension=extension,
            quality=self.cfg.quality,
            share_spoken=self.cfg.spoken,
            pairs=self.cfg.pairs,
        )
        kind = SPECIES[int(drawn.members["cls"])]
        return {**drawn.members, "cls": str(self.species.index(kind)).encode()}
