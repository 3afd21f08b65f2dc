"""The built-in source: drawn birds, a pure function of (seed, index, size). Reads no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.config import ShardsConfig
from data_prep.items import Item, Listing, Members
from pipeline.errors import ConfigError

NAME = "birds"
DEFAULT_COUNT = 20_000


def list_birds(cfg: ShardsConfig) -> Listing:
    """`cfg.count` scenes for train and val, and for the split `unseen` the first ones whose pair is held out.

    `unseen` gets the share `cfg.val` of `cfg.count`; it never mixes with train or val.

    Raises:
        ConfigError: no such species or colour, or none that go together.
    """
    from data_prep.birds import COLOURS, SPECIES, describe, is_of, is_unseen, kept_out
    from data_prep.birds.spoken import check_speaker

    if cfg.spoken and cfg.with_sounds:
        check_speaker()
    species = _chosen("species", cfg.species, SPECIES, least=1)
    colours = _chosen("colours", cfg.colours, COLOURS, least=2)  # wings differ from the body they lie on
    if not any(set(colours) - kept_out(kind) for kind in species):
        raise ConfigError(
            f"shards: wings in {' and '.join(colours)} are kept out of train for {', '.join(species)} (they make the "
            "split unseen). Name one more of shards.colours or shards.species."
        )
    wanted = cfg.count or DEFAULT_COUNT
    held_out = math.ceil(cfg.val * wanted) if any(set(colours) & kept_out(kind) for kind in species) else 0
    items: list[Item] = []
    index = seen = unseen = 0
    while seen < wanted or unseen < held_out:
        scene = describe(cfg.seed, index, cfg.pairs)
        if not is_of(scene, species, colours):
            pass
        elif is_unseen(scene):
            unseen += 1
            if unseen <= held_out:
                items.append(Item(f"{NAME}/{index}", "unseen"))
        else:
            seen += 1
            if seen <= wanted:
                items.append(Item(f"{NAME}/{index}"))
        index += 1
    return Listing(NAME, species, items, BirdMembers(cfg, species))


def _chosen(setting: str, named: tuple[str, ...], known: Sequence[str], least: int) -> tuple[str, ...]:
    """Those named, in the order of all that are known; all where none is named."""
    if unknown := sorted(set(named) - set(known)):
        raise ConfigError(f"shards.{setting} knows {', '.join(known)}; got {', '.join(unknown)}.")
    if 0 < len(set(named)) < least:
        raise ConfigError(f"shards.{setting} takes at least {least}; got {', '.join(named)}.")
    return tuple(one for one in known if not named or one in named)


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
