"""The stage `vqvae`: shards to a trained autoencoder. Torch-free until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.stage import Stage
from stages.vqvae.config import VQVAEConfig


def run(cfg: VQVAEConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Train on the split `train`, evaluate on `val`, leave `model/`; returns the figures on val."""
    from stages.vqvae.train import train_autoencoder

    return train_autoencoder(cfg, inputs["shards"], out)


STAGE = Stage(
    name="vqvae",
    config=VQVAEConfig,
    needs=lambda recipe: ("shards",),
    makes=("model",),
    run=run,
    distributed=True,
)
