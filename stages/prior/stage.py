"""The stage `prior`: codes to a trained prior. Torch-free until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.hub import check_finished
from pipeline.stage import Stage
from stages.codes.config import LARGE
from stages.codes.stage import picture_size
from stages.prior.config import PriorConfig


def run(cfg: PriorConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Train on the split `train`, evaluate on `val`, leave `model/`; returns the figures on val."""
    from stages.prior.train import train_prior

    return train_prior(cfg, inputs["codes"], inputs["vqvae"], out, inputs.get("align"))


def check(cfg: PriorConfig, recipe: Recipe) -> None:
    """What the prior is to hear must be said by somebody, where this recipe makes the codes.

    Raises:
        ValueError: text, audio, vector or picture without an encoder; `init_from` without weights; opposites that no
            `align` has.
    """
    check_finished("prior.init_from", cfg.init_from)
    codes = [section for name, section in recipe.sections.items() if name.partition("@")[0] == "codes"]
    if len(codes) != 1:
        return
    aligns = [section for name, section in recipe.sections.items() if name.partition("@")[0] == "align"]
    lent = any(name.partition("@")[0] == "align" for name in recipe.use)  # its words are known when it is read
    if cfg.sampling.opposites and not (lent or any(section.get("opposites") for section in aligns)):
        raise ValueError(
            "prior.sampling.opposites moves away from texts whose opposites are exchanged, and no stage align has any. "
            "Say which words:  align.opposites=[[left,right]]"
        )
    said = codes[0].get("conditions") or {}
    for name in ("vector", "picture"):
        if name in cfg.conditions and said.get(name, "none") == "none":
            raise ValueError(
                f"prior.conditions asks for {name}, and no CLIP sees it. Set codes.conditions.{name}=auto (that of the "
                "stage align) or to a CLIP's folder or hub id."
            )
    for name in ("text", "audio"):
        if name in cfg.conditions and not _is_encoded(name, said.get(name, "auto"), recipe):
            raise ValueError(
                f"prior.conditions asks for {name}, and nothing encodes it. Add a section 'align: {{}}', or name an "
                f"encoder:  codes.conditions.{name}=DIR"
            )


def _is_encoded(name: str, where: str, recipe: Recipe) -> bool:
    """Whether captions or sounds get an encoder: one that is named, that of `align`, or the one of large pictures."""
    if where != "auto":
        return where != "none"
    size = picture_size(recipe)
    return recipe.has("align") or (name == "text" and (size is None or size >= LARGE))


STAGE = Stage(
    name="prior",
    config=PriorConfig,
    needs=lambda recipe: ("vqvae", "codes", *(["align"] if recipe.has("align") else [])),
    makes=("model",),
    run=run,
    distributed=True,
    check=check,
)
