"""The stage `shards`: raw images to WebDataset tars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.config import ShardsConfig
from pipeline.progress import Progress
from pipeline.stage import Stage


def run(cfg: ShardsConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Write the shards straight into the stage's folder."""
    from data_prep import shard

    bar: Progress | None = None

    def report(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = Progress(total, title="shards", items_per_step=1, start=done)
        bar.update(done)

    try:
        return shard(cfg, out, report)
    finally:
        if bar is not None:
            bar.close()


STAGE = Stage(name="shards", config=ShardsConfig, needs=lambda recipe: (), makes=("dataset.json",), run=run)
