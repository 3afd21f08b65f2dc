"""The built-in source: drawn birds, a pure function of (seed, index, size). Reads no file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from data_prep.config import ShardsConfig
from data_prep.items import Item, Listing, Members

NAME = "birds"
DEFAULT_COUNT = 20_000


def list_birds(cfg: ShardsConfig) -> Listing:
    """`cfg.count` scenes for train and val, and for the split `unseen` the first ones whose pair is held out.

    `unseen` gets the share `cfg.val` of `cfg.count`; it never mixes with train or val.
    """
    from data_prep.birds import SPECIES, describe, is_unseen
    from data_prep.birds.spoken import check_speaker

    if cfg.spoken and cfg.with_sounds:
        check_speaker()
    wanted = cfg.count or DEFAULT_COUNT
    held_out = math.ceil(cfg.val * wanted)
    items: list[Item] = []
    index = seen = unseen = 0
    while seen < wanted or unseen < held_out:
        if is_unseen(describe(cfg.seed, index, cfg.pairs)):
            unseen += 1
            if unseen <= held_out:
                items.append(Item(f"{NAME}/{index}", "unseen"))
        else:
            seen += 1
            if seen <= wanted:
                items.append(Item(f"{NAME}/{index}"))
        index += 1
    return Listing(NAME, tuple(SPECIES), items, BirdMembers(cfg))


@dataclass(frozen=True)
class BirdMembers:
    """Draw one scene at the stored size, write its captions, sing its call."""

    cfg: ShardsConfig

    def __call__(self, item: Item) -> Members:
        """Members of the scene whose number stands in `item.source`."""
        from data_prep.birds import sample

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
        return dict(drawn.members)
