"""The plan, made before a byte is written: which sample goes into which shard under which key.

Nothing in it depends on the number of workers, on time or on what turns out to be unreadable: a rejected file leaves
its key unused. `plan.json` remembers the settings and a digest of the listing, so that a rerun continues the same plan.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.config import ShardsConfig
from data_prep.items import Item, Listing
from pipeline.atomic_file import write_atomically
from pipeline.errors import ConfigError
from pipeline.randomness import numpy_rng, seed_of
from pipeline.samples import encode_json
from pipeline.schema import differences, identity_part, with_new_fields

PLAN = "plan.json"
_FIRST = ("train", "val", "test", "unseen")


@dataclass(frozen=True)
class ShardPlan:
    """One output shard: item i becomes the sample with key `first_key + i`."""

    name: str
    split: str
    first_key: int
    items: tuple[Item, ...]

    @property
    def keys(self) -> list[str]:
        """The keys of all items, rejected or not."""
        return [f"{self.first_key + i:09d}" for i in range(len(self.items))]


def make_plan(cfg: ShardsConfig, items: list[Item]) -> list[ShardPlan]:
    """Split by hash, shuffle each split by the seed, cut it into shards of equal size (one more or less)."""
    plans: list[ShardPlan] = []
    first_key = 0
    for split, members in sorted(_splits(cfg, items).items(), key=lambda entry: _rank(entry[0])):
        order = numpy_rng(cfg.seed, "order of shards", split).permutation(len(members))
        count = -(-len(members) // cfg.shard_samples)
        cuts = [i * len(members) // count for i in range(count + 1)]
        for number in range(count):
            chosen = tuple(members[i] for i in order[cuts[number] : cuts[number + 1]])
            plans.append(ShardPlan(f"{split}-{number:06d}", split, first_key, chosen))
            first_key += len(chosen)
    return plans


def _rank(split: str) -> tuple[int, str]:
    return (_FIRST.index(split) if split in _FIRST else len(_FIRST), split)


def _splits(cfg: ShardsConfig, items: list[Item]) -> dict[str, list[Item]]:
    """Splits the source names stay; of `train` (and of what has none) the share `cfg.val` goes to val."""
    given = {item.split for item in items if item.split} - {"unseen"}
    draw = 0.0 if "val" in given else cfg.val
    shares = {item.source: seed_of(cfg.seed, "val", item.source) / 2**63 for item in items if item.split is None}
    shares |= {item.source: seed_of(cfg.seed, "val", item.source) / 2**63 for item in items if item.split == "train"}
    limit = max(draw, min(shares.values(), default=0.0)) if draw and len(shares) > 1 else -1.0
    splits: dict[str, list[Item]] = {}
    for item in items:
        into_val = item.source in shares and (shares[item.source] < draw or shares[item.source] == limit)
        splits.setdefault("val" if into_val else item.split or "train", []).append(item)
    return splits


def take(cfg: ShardsConfig, items: list[Item]) -> list[Item]:
    """At most `cfg.count` items, chosen by hash, in the order of the listing."""
    if cfg.count is None or cfg.count >= len(items):
        return items
    lots = sorted(range(len(items)), key=lambda i: (seed_of(cfg.seed, "count", items[i].source), i))
    return [items[i] for i in sorted(lots[: cfg.count])]


def settings_of(cfg: ShardsConfig) -> dict[str, Any]:
    """What decides the bytes besides the source's content; a folder may be moved between two runs."""
    return {name: value for name, value in identity_part(cfg).items() if name != "source"}


def settle(cfg: ShardsConfig, listing: Listing, out: Path) -> None:
    """Write `plan.json` into a fresh folder, or check that a started one has the same plan.

    Raises:
        ConfigError: other settings (the keys that differ are named), another source, or shards made elsewhere.
    """
    digest = hashlib.sha256()
    for item in listing.items:
        digest.update(_bytes(item.mark()))
    mine = {
        "kind": listing.kind,
        "classes": list(listing.classes),
        "items": len(listing.items),
        "digest": digest.hexdigest(),
        "settings": settings_of(cfg),
    }
    path = out / PLAN
    if path.is_file():
        _compare(cfg, json.loads(path.read_bytes()), mine, out)
        return
    if next(out.glob("*.tar"), None) is not None:
        raise ConfigError(f"{out} holds tars that were not planned here: choose another folder for the shards.")
    write_atomically(path, json.dumps(mine, ensure_ascii=False, sort_keys=True, indent=1).encode() + b"\n")


def _bytes(mark: Any) -> bytes:
    """As it is stored; where a text holds half a letter, which its own item is refused for, in ASCII."""
    try:
        return encode_json(mark)
    except UnicodeEncodeError:
        return json.dumps(mark, sort_keys=True).encode()


def _compare(cfg: ShardsConfig, old: dict[str, Any], mine: dict[str, Any], out: Path) -> None:
    before = identity_part(cfg, with_new_fields(ShardsConfig, {"source": cfg.source, **old["settings"]}))
    changed = differences({name: value for name, value in before.items() if name != "source"}, mine["settings"])
    if changed:
        raise ConfigError(
            f"{out} was started with other settings: {'; '.join(changed)}.\n"
            "Undo the change, or choose another folder for the shards."
        )
    if any(old[name] != mine[name] for name in ("kind", "items", "digest", "classes")):
        raise ConfigError(
            f"{out} was started from another source: {old['items']} items of kind '{old['kind']}' then, "
            f"{mine['items']} of kind '{mine['kind']}' now (or names, sizes, labels or captions changed).\n"
            "Restore the source, or choose another folder for the shards."
        )
