"""The stage `vqvae`: shards to a trained autoencoder. Torch-free until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.stage import Stage
from stages.vqvae.config import VQVAEConfig


def run(cfg: VQVAEConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Train on the split `train`, evaluate on `val`, leave `model/`; returns the figures on val."""
    from stages.vqvae.train import train_autoencoder

    return train_autoencoder(cfg, inputs["shards"], out)


def check(cfg: VQVAEConfig, recipe: Recipe) -> None:
    """The size of shards that this recipe makes must divide into the coarsest level's patches."""
    size = recipe.sections.get("shards", {}).get("size")
    if cfg.image_size is None and isinstance(size, int):
        cfg.check_size(size)


STAGE = Stage(
    name="vqvae",
    config=VQVAEConfig,
    needs=lambda recipe: ("shards",),
    makes=("model",),
    run=run,
    distributed=True,
    check=check,
)
