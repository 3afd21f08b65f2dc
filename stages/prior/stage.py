"""The stage `prior`: codes to a trained prior. Torch-free until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.stage import Stage
from stages.prior.config import PriorConfig


def run(cfg: PriorConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Train on the split `train`, evaluate on `val`, leave `model/`; returns the figures on val."""
    from stages.prior.train import train_prior

    return train_prior(cfg, inputs["codes"], inputs["vqvae"], out, inputs.get("align"))


STAGE = Stage(
    name="prior",
    config=PriorConfig,
    needs=lambda recipe: ("vqvae", "codes", *(["align"] if recipe.has("align") else [])),
    makes=("model",),
    run=run,
    distributed=True,
)
