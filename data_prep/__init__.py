"""Raw data to shards: list the source, plan every shard, then let worker processes write them. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.config import ShardsConfig


def shard(cfg: ShardsConfig, out: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Write `cfg.source` as shards under `out`; called again it writes only what is missing. See `data_prep.engine`."""
    from data_prep.engine import write_shards

    return write_shards(cfg, out, progress)
