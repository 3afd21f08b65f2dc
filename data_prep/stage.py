"""The stage `shards`: raw images to WebDataset tars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.config import ShardsConfig
from pipeline.progress import Progress
from pipeline.stage import Stage


def run(cfg: ShardsConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Write the shards straight into the stage's folder, and a sheet of the first pictures beside them."""
    from data_prep.contact_sheet import save_contact_sheet

    results = write_shards(cfg, out)
    save_contact_sheet(out, cfg.size, out / "samples" / "pictures.png")
    return results


def write_shards(cfg: ShardsConfig, out: Path) -> dict[str, Any]:
    """Write the shards into `out`, and nothing else; shows progress."""
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
