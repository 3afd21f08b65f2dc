"""The stage `evaluation`: figures on reconstructions and samples. Torch-free until it runs; reads folders only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stage import Stage
from stages.evaluation.config import EvaluationConfig

if TYPE_CHECKING:
    from pipeline.config import Recipe


def needs(recipe: Recipe) -> tuple[str, ...]:
    """The shards and the autoencoder always; codes and prior where the recipe has them."""
    return ("shards", "vqvae", *(name for name in ("codes", "prior") if recipe.has(name)))


def run(cfg: EvaluationConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Measure; the figures are the results, and `results.json` in the stage folder."""
    from stages.evaluation.measure import measure

    return measure(cfg, inputs, out)


STAGE = Stage(name="evaluation", config=EvaluationConfig, needs=needs, makes=("results.json",), run=run)
