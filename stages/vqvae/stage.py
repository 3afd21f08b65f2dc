"""The stage `vqvae`: shards to a trained autoencoder. Torch-free until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.hub import check_model
from pipeline.stage import Stage
from stages.vqvae.config import VQVAEConfig


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
        ValueError: it does not, or the vision model that looks on is not to be had.
    """
    size = recipe.sections.get("shards", {}).get("size")
    if cfg.image_size is None and isinstance(size, int):
        cfg.check_size(size)
    if cfg.loss.perceptual and cfg.perceptual != "auto":
        check_model("vqvae.perceptual", cfg.perceptual)


STAGE = Stage(
    name="vqvae",
    config=VQVAEConfig,
    needs=needs,
    makes=("model",),
    run=run,
    distributed=True,
    check=check,
)
