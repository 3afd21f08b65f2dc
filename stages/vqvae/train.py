"""Puts a vqvae stage together: shards, backend, models, task; then the loop."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.backend import Backend
from pipeline.errors import ConfigError
from pipeline.schema import plain
from pipeline.shard_index import ShardSet, open_shards
from pipeline.shards import open_batches
from pipeline.tracking import Tracker
from pipeline.train_loop import train
from stages.images import train_decode
from stages.perceptual import Perceptual
from stages.vqvae.config import NO_SIZE, VQVAEConfig
from stages.vqvae.discriminator import PatchDiscriminator
from stages.vqvae.load import start_from
from stages.vqvae.model import Autoencoder
from stages.vqvae.task import AutoencoderTask


def train_autoencoder(cfg: VQVAEConfig, shards_folder: Path, out: Path, align: Path | None = None) -> dict[str, Any]:
    """Train in the stage folder `out`; the figures on val, with image size, levels and codebook sizes."""
    shards = open_shards(shards_folder)
    size = image_size(cfg, shards)
    backend = Backend.start(cfg.backend, seed=cfg.seed)
    decode = train_decode(size, flip=cfg.flip)
    batches = open_batches(
        shards.split("train"), decode, cfg.data, seed=cfg.seed, rank=backend.rank, world=backend.world
    )
    model = build(cfg)
    discriminator = PatchDiscriminator(cfg.discriminator_channels) if cfg.loss.adversarial else None
    val = shards.split("val") if "val" in shards.splits else []
    tower = align / "model" / "clip" if align and cfg.perceptual == "auto" else cfg.perceptual
    eye = Perceptual(tower) if cfg.loss.perceptual else None
    task = AutoencoderTask(cfg, backend, model, discriminator, val=val, image_size=size, eye=eye)
    inputs = {"shards": shards_folder, **({"align": align} if align and eye and cfg.perceptual == "auto" else {})}
    tracker = Tracker.start(out, cfg.tracking, "vqvae", plain(cfg), backend, inputs=inputs)
    global_batch = cfg.data.global_batch
    step = train(task, batches, cfg.loop, out=out, backend=backend, tracker=tracker, global_batch=global_batch)
    figures = task.figures or task.evaluate(step)
    backend.finish()
    return {"image_size": size, "levels": list(cfg.levels), "codebook_sizes": list(model.codebook_sizes), **figures}


def build(cfg: VQVAEConfig) -> Autoencoder:
    """The model this config describes; ConfigError or MissingInputError where `init_from` holds none like it."""
    model = Autoencoder(
        levels=cfg.levels,
        bottleneck=cfg.bottleneck,
        codebook_sizes=cfg.codebook_sizes,
        code_widths=cfg.code_widths,
        channels=cfg.channels,
        blocks=cfg.blocks,
        codebook=asdict(cfg.codebook),
    )
    if cfg.init_from:
        start_from(model, Path(cfg.init_from))
    return model


def image_size(cfg: VQVAEConfig, shards: ShardSet) -> int:
    """The crop's side: the recipe's, else that of the shards; ConfigError where levels do not divide it."""
    size = cfg.image_size or shards.info.get("image_size")
    if not size:
        raise ConfigError(NO_SIZE % shards.root)
    try:
        cfg.check_size(int(size))
    except ValueError as error:
        raise ConfigError(f"vqvae: {error} Set vqvae.image_size or vqvae.levels.") from error
    return int(size)
