"""The stage `align`: shards to encoders of text, pictures and sounds. Torch-free until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.hub import check_model
from pipeline.stage import Stage
from stages.conditioning.align.config import AlignConfig


def run(cfg: AlignConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Train on the split `train`, search in `val`, leave `model/clip` and `model/audio`; the figures on val."""
    from stages.conditioning.align.train import train_alignment

    return train_alignment(cfg, inputs["shards"], out)


def check(cfg: AlignConfig, recipe: Recipe) -> None:
    """ValueError where the CLIP to keep is not to be had."""
    if cfg.pretrained:
        check_model("align.pretrained", cfg.pretrained)


STAGE = Stage(
    name="align",
    config=AlignConfig,
    needs=lambda recipe: ("shards",),
    makes=("model",),
    run=run,
    distributed=True,
    check=check,
)
