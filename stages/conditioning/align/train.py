"""Puts an align stage together: shards, tokenizer, towers, backend, task; then the loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pipeline.backend import Backend
from pipeline.errors import ConfigError
from pipeline.randomness import seed_of
from pipeline.schema import plain
from pipeline.shard_index import ShardSet, open_shards
from pipeline.shards import open_batches
from pipeline.tracking import Tracker
from pipeline.train_loop import train
from stages.attributes import find_values, in_words
from stages.conditioning.align.config import AlignConfig
from stages.conditioning.align.model import Towers, build_audio, build_clip
from stages.conditioning.align.read import AlignDecode, exchanged, some_captions, some_sounds
from stages.conditioning.align.task import AlignTask, Processors
from stages.conditioning.align.tokenizer import train_tokenizer
from stages.conditioning.pretrained import load, load_weights
from stages.conditioning.text_encoder import longest_of
from stages.images import CropDecode

RATE = 16_000
SOUNDS_LOOKED_AT = 128
LEAST_DEVIATION = 1e-2
"""Of log-mel values: of windows of silence alone there is none to divide by."""
CAPTIONS_LOOKED_AT = 2000
log = logging.getLogger(__name__)


def train_alignment(cfg: AlignConfig, shards_folder: Path, out: Path) -> dict[str, Any]:
    """Train in the stage folder `out`; the figures on val."""
    shards = open_shards(shards_folder)
    size = int(shards.info.get("image_size") or cfg.image_side)
    backend = Backend.start(cfg.backend, seed=cfg.seed)
    towers, processors = build(cfg, shards)
    decode = AlignDecode(
        CropDecode(size, random=True), processors.sound, cfg.audio_seconds,
        speeds=cfg.sound_speeds, tempos=cfg.sound_tempos, transcripts=cfg.transcripts,
        values=processors.values, words=processors.words, more=cfg.more_captions if processors.values else 0,
    )  # fmt: skip
    train_split = shards.split("train")
    batches = open_batches(train_split, decode, cfg.data, seed=cfg.seed, rank=backend.rank, world=backend.world)
    val = shards.split("val") if "val" in shards.splits else []
    task = AlignTask(cfg, backend, towers, processors, val=val, image_size=size)
    tracker = Tracker.start(out, cfg.tracking, "align", plain(cfg), backend, inputs={"shards": shards_folder})
    global_batch = cfg.data.global_batch
    step = train(task, batches, cfg.loop, out=out, backend=backend, tracker=tracker, global_batch=global_batch)
    figures = task.figures or task.evaluate(step)
    backend.finish()
    return {"modalities": task.modalities, **figures}


def build(cfg: AlignConfig, shards: ShardSet) -> tuple[Towers, Processors]:
    """Towers and what feeds them; the same on every process.

    Raises:
        ConfigError: pictures without captions and sounds; `pretrained` without sounds, or no CLIP.
    """
    split = shards.split("train")
    modalities = shards.info.get("modalities", ["text", "audio"])
    first = next(iter(some_captions(split)), None) if "text" in modalities else None
    sounds = some_sounds(split, SOUNDS_LOOKED_AT, cfg.audio_seconds, RATE) if "audio" in modalities else []
    if first is None and not sounds:
        raise ConfigError(
            f"{shards.root} has neither captions nor sounds: there is nothing to align pictures with. Remove the "
            "section 'align', or add captions (.txt, metadata.jsonl) or sounds."
        )
    if cfg.pretrained and not sounds:
        raise ConfigError(
            f"align.pretrained={cfg.pretrained} is aligned already, and {shards.root} has no sounds. Remove the "
            f"section 'align' and write  codes.conditions.text={cfg.pretrained}"
        )
    prepare = _audio_preparation(cfg, sounds) if sounds else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(cfg.seed, "align"))
        if cfg.pretrained:
            kept = _around_pretrained(cfg, prepare)
            tokenizer, longest = kept[1].tokenizer, longest_of(kept[0].clip.config.text_config, kept[1].tokenizer)
            warn_of_long(tokenizer, islice(some_captions(split), CAPTIONS_LOOKED_AT), longest)
            return kept
        tokenizer = train_tokenizer(some_captions(split), cfg.vocabulary, cfg.text_tokens)
        warn_of_long(tokenizer, islice(some_captions(split), CAPTIONS_LOOKED_AT), cfg.text_tokens)
        audio = build_audio(cfg.audio, cfg.embedding, prepare) if prepare is not None else None
        values = find_values(split, len(shards.info.get("classes", []))) if cfg.attributes else {}
        _warn_of_untold(cfg, values)
        clip, told = build_clip(cfg, tokenizer), sum(map(len, values.values()))
        towers = Towers(clip, audio, cfg.image_side, frozen=False, values=told)
    words = in_words(values, shards.info.get("classes", []))
    return towers, Processors(tokenizer, _image_preparation(cfg.image_side), prepare, values, words)


def _warn_of_untold(cfg: AlignConfig, values: dict[str, list[str]]) -> None:
    """Say so where opposites or further captions teach nothing of attributes."""
    if cfg.more_captions and not values:
        log.warning("align.more_captions=%d teaches nothing: the data have no attributes", cfg.more_captions)
    words = [word for name, known in values.items() for word in (name, *known)]
    if cfg.opposites and values and all(exchanged(word, cfg.opposites) == word for word in words):
        log.warning(
            "no attribute of the data is called by one of align.opposites, so captions with them exchanged are taught "
            "the attributes of the right ones. Add the words that attributes are called by, such as [left, right]."
        )


def warn_of_long(tokenizer: Any, captions: Iterable[str], longest: int) -> None:
    """Say so where captions are longer than the text tower takes (`align.text_tokens`, or a pretrained one's own)."""
    sizes = [(len(ids), text) for text in captions if (ids := tokenizer(text)["input_ids"])]
    longer = [text for size, text in sizes if size > longest]
    if longer:
        share = len(longer) / len(sizes)
        log.warning(
            "%.1f %% of the captions are longer than the text tower's %d tokens (align.text_tokens) and are cut, such "
            "as '%s'",
            100 * share, longest, longer[0][:80],
        )  # fmt: skip


def _around_pretrained(cfg: AlignConfig, prepare: Any) -> tuple[Towers, Processors]:
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    clip: Any = load_weights(CLIPModel, cfg.pretrained, "text")
    images = load(AutoImageProcessor, cfg.pretrained, "image", use_fast=False)
    audio = build_audio(cfg.audio, clip.config.projection_dim, prepare)
    side = int(clip.config.vision_config.image_size)
    mean, deviation = tuple(images.image_mean), tuple(images.image_std)
    towers = Towers(clip, audio, side, frozen=True, mean=mean, deviation=deviation, temperature=cfg.temperature)
    return towers, Processors(load(AutoTokenizer, cfg.pretrained, "text"), images, prepare)


def _image_preparation(side: int) -> Any:
    from transformers import CLIPImageProcessorPil

    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=half, image_std=half
    )


def _audio_preparation(cfg: AlignConfig, sounds: list[Any]) -> Any:
    """AST's feature extractor for this window, normalised by the mean and deviation of some windows of sound."""
    import transformers

    extractor: Any = transformers.ASTFeatureExtractor

    frames = max(cfg.audio_bands, math.ceil((cfg.audio_seconds - 0.015) * 100 / 8) * 8)
    plain_features = extractor(sampling_rate=RATE, num_mel_bins=cfg.audio_bands, max_length=frames, do_normalize=False)
    heard = [plain_features(sound, sampling_rate=RATE, return_tensors="pt")["input_values"] for sound in sounds]
    values = torch.cat(heard)
    there = values.abs().sum(-1) > 0  # frames behind the end of a sound say nothing of loudness
    values = values[there] if there.any() else values
    return extractor(
        sampling_rate=RATE, num_mel_bins=cfg.audio_bands, max_length=frames,
        mean=round(float(values.mean()), 4), std=max(LEAST_DEVIATION, round(float(values.std()), 4)),
    )  # fmt: skip
