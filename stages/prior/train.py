"""Puts a prior stage together: codes, backend, model, task; then the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from pipeline.backend import Backend
from pipeline.errors import ConfigError, MissingInputError
from pipeline.schema import plain
from pipeline.shards import open_batches
from pipeline.tracking import Tracker
from pipeline.train_loop import train
from stages.codes.read import CodesDecode, CodeSet, open_codes
from stages.codes.read_conditions import ConditionDecode, check_listened, encoders_of
from stages.prior.config import PriorConfig
from stages.prior.model import Prior
from stages.prior.task import PriorTask


def train_prior(
    cfg: PriorConfig, codes_folder: Path, tokenizer: Path, out: Path, align: Path | None = None
) -> dict[str, Any]:
    """Train in the stage folder `out`; the figures on val, with levels and classes."""
    codes = open_codes(codes_folder, tokenizer)
    prior = build(cfg, codes)
    backend = Backend.start(cfg.backend, seed=cfg.seed)
    heard = {name: about for name, about in codes.conditions.items() if name in listened(prior)}
    live = encoders_of(heard, [align] if align else [], backend.device, only_live=True)
    told = ConditionDecode(heard, tuple(codes.grids), live.get("audio")) if heard else None
    decode = CodesDecode(len(codes.grids), any_view=True, told=told)
    batches = open_batches(
        codes.shards.split("train"), decode, cfg.data, seed=cfg.seed, rank=backend.rank, world=backend.world
    )
    task = PriorTask(cfg, backend, prior, codes, tokenizer, decode=decode, live=live)
    inputs = {"vqvae": tokenizer, "codes": codes_folder, **({"align": align} if align and live else {})}
    tracker = Tracker.start(out, cfg.tracking, "prior", plain(cfg), backend, inputs=inputs)
    global_batch = cfg.data.global_batch
    step = train(task, batches, cfg.loop, out=out, backend=backend, tracker=tracker, global_batch=global_batch)
    figures = task.figures or task.evaluate(step)
    backend.finish()
    parameters = sum(p.numel() for p in prior.parameters())
    listens = sorted(prior.arguments["conditions"])
    return {
        "conditions": listens,
        "classes": codes.classes,
        "image_size": codes.image_size,
        "parameters": parameters,
        **figures,
    }


def listened(prior: Prior) -> set[str]:
    """What must be read for a prior: a vector is one of a source picture."""
    names = set(prior.arguments["conditions"])
    return names | ({"image"} if "vector" in names else set())


def build(cfg: PriorConfig, codes: CodeSet) -> Prior:
    """The model this config describes over these codes; the same weights on every process.

    Raises:
        ConfigError: a window that does not fit the grids; `init_from` names no prior of this shape.
    """
    import torch

    from pipeline.randomness import seed_of

    widths = {"class": len(codes.classes), "image": 1} | {
        name: about["width"] for name, about in codes.conditions.items() if "width" in about
    }
    modalities = {name: widths[name] for name in check_listened(cfg.conditions, codes.modalities)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(cfg.seed, "prior"))
        try:
            prior = Prior(
                kind=cfg.kind,
                grids=codes.grids,
                codebook_sizes=codes.codebook_sizes,
                conditions=modalities,
                width=cfg.width,
                depth=cfg.depth,
                heads=cfg.heads,
                dropout=cfg.dropout,
                window=cfg.window,
                fold=cfg.fold,
                # a class's one token says no more than its vector
                cross_attention=cfg.cross_attention and any(name != "class" for name in modalities),
                condition_layers=cfg.condition_layers,
            )
        except ValueError as error:
            raise ConfigError(f"prior: {error}") from error
    if cfg.init_from:
        _start_from(prior, Path(cfg.init_from))
    return prior


def _start_from(prior: Prior, folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    if not path.is_file():
        raise MissingInputError(f"prior.init_from={folder} holds no trained prior (model/model.safetensors).")
    try:
        prior.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ConfigError(f"prior.init_from={folder} is a prior of another shape: {str(error)[:200]}") from error
