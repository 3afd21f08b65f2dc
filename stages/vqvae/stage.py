"""The stage `vqvae`: shards to a trained autoencoder. Torch-free until it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.hub import check_finished, check_model
from pipeline.shard_index import DATASET
from pipeline.stage import Stage
from stages.vqvae.config import NO_SIZE, VQVAEConfig


def run(cfg: VQVAEConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Train on the split `train`, evaluate on `val`, leave `model/`; returns the figures on val."""
    from stages.vqvae.train import train_autoencoder

    return train_autoencoder(cfg, inputs["shards"], out, inputs.get("align"))


def needs(recipe: Recipe) -> tuple[str, ...]:
    """The shards, and the encoders of `align` where they look on."""
    return ("shards", *(["align"] if any(map(_looks_with_align, _sections(recipe))) else []))


def _sections(recipe: Recipe) -> list[dict[str, Any]]:
    return [section for name, section in recipe.sections.items() if name.partition("@")[0] == "vqvae"]


def _looks_with_align(section: dict[str, Any]) -> bool:
    loss = section.get("loss") or {}
    return bool(loss.get("perceptual")) and section.get("perceptual", "auto") == "auto"


def check(cfg: VQVAEConfig, recipe: Recipe) -> None:
    """The size of shards that this recipe makes must divide into the coarsest level's patches.

    Raises:
        ValueError: it does not; the vision model that looks on, or `init_from`, is not to be had.
    """
    size = recipe.sections.get("shards", {}).get("size")
    if cfg.image_size is None and isinstance(size, int):
        cfg.check_size(size)
    if cfg.loss.perceptual and cfg.perceptual != "auto":
        check_model("vqvae.perceptual", cfg.perceptual)
    check_finished("vqvae.init_from", cfg.init_from)


def check_data(cfg: VQVAEConfig, recipe: Recipe, shards: Path) -> None:
    """The size of shards must divide into the coarsest level's patches, and be known; ValueError where not."""
    if cfg.image_size is None and shards.is_dir() and not (shards / DATASET).is_file():
        raise ValueError(NO_SIZE % shards)
    size = json.loads((shards / DATASET).read_bytes()).get("image_size") if (shards / DATASET).is_file() else None
    if cfg.image_size is None and isinstance(size, int):
        cfg.check_size(size)


STAGE = Stage(
    name="vqvae",
    config=VQVAEConfig,
    needs=needs,
    makes=("model",),
    run=run,
    distributed=True,
    check=check,
    check_data=check_data,
)
