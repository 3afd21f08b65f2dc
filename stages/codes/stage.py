"""The stage `codes`: every image of the shards as codes of the tokenizer. Torch-free until it runs."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.artifacts import MANIFEST, read_json
from pipeline.config import Recipe
from pipeline.errors import ConfigError
from pipeline.hub import check_model
from pipeline.progress import Progress
from pipeline.samples import CAPTION_MEMBERS, SOUND_MEMBERS
from pipeline.shard_index import Shard, ShardSet
from pipeline.stage import Stage
from stages.codes.config import LARGE, LARGE_TEXT, PAIR, SEEN, CodesConfig

PASSED_OVER = (
    "%s: tars made by others are read as they are, and .%s in them is passed over. To have it heard:  "
    "tessera shard %s FOLDER"
)
SHARDS_SIZE = 256
"""`shards.size` where a recipe does not name it."""
PASSED = {"cls", "mp3", "ogg", "opus", "source.jpg", "source.jpeg", "source.webp"}
HEARING = ("clap", "clap_audio_model", "audio-spectrogram-transformer", "wav2vec2", "hubert", "wavlm")
"""Types of models that hear."""
LOOKED_AT = 100
"""Samples of a shard whose JSON is looked at for captions."""
log = logging.getLogger(__name__)


def run(cfg: CodesConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Write code shards and `dataset.json` into the stage's folder; every process writes its share."""
    from pipeline.artifacts import fingerprint
    from pipeline.schema import plain
    from pipeline.shard_index import open_shards
    from pipeline.tracking import Tracker
    from stages.codes.encode_conditions import ConditionEncoders
    from stages.codes.extract import Extractor, extract, own_shards
    from stages.codes.picture import decoded

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    source = open_shards(inputs["shards"])
    if not source.info:
        _warn_of_members(source)
    model, about = _tokenizer(inputs["vqvae"])
    modalities = modalities_of(source)
    flips = "text" not in modalities if cfg.flips == "auto" else bool(cfg.flips)
    device = next(model.parameters()).device
    encoders = ConditionEncoders.load(cfg.conditions, modalities, inputs.get("align"), device, about["image_size"])
    extractor = Extractor(model, about["image_size"], cfg, flips, out, fingerprint(inputs["vqvae"]), encoders)
    total = sum(shard.samples for shard in own_shards(source, rank, world))
    with Progress(total, title="codes", items_per_step=1, shown=rank == 0) as bar:
        extract(extractor, source, rank=rank, world=world, report=bar.update)
    if encoders.cut:
        log.warning("%d of %d captions are longer than their encoder takes, and cut", encoders.cut, encoders.read)
    if rank:
        return {}
    results = _results(out)
    tracker = Tracker.start(out, cfg.tracking, "codes", plain(cfg), inputs=inputs)
    tracker.cut_back(-1)  # of a run that was killed at its end
    tracker.log({f"codes/{split}": count for split, count in results["samples"].items()}, 0)
    try:
        tracker.images(decoded(source, out, model, about["image_size"]), 0)
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish()
    return results


def modalities_of(source: ShardSet) -> list[str]:
    """`text`, `audio`, `source` as far as the shards hold them; of tars made by others by the members they have."""
    if source.info:
        return list(source.info.get("modalities", ["text", "audio", "source"]))
    shards = [shard for split in source.splits.values() for shard in split]
    found = {extension for shard in shards for members in shard.index().members for extension in members}
    text = bool(found & set(CAPTION_MEMBERS)) or ("json" in found and _captions_in_json(shards))
    there = {"text": text, "audio": bool(found & set(SOUND_MEMBERS)), "source": PAIR in found}
    return [name for name, here in there.items() if here]


def _captions_in_json(shards: list[Shard]) -> bool:
    """Whether the JSON of the first samples of some shard holds captions."""
    from pipeline.samples import captions_in, record_of
    from pipeline.shard_files import read_samples

    for shard in shards:
        for one in islice(read_samples(shard), LOOKED_AT):
            with suppress(ValueError):  # a broken record says nothing; who reads it counts it
                if captions_in(record_of(one)):
                    return True
    return False


def _warn_of_members(source: ShardSet) -> None:
    """Say what stands in tars made by others that only `tessera shard` takes in: class names, sounds to transcode."""
    first = [shards[0].index() for shards in source.splits.values() if shards]
    found = {extension for index in first for members in index.members for extension in members}
    if unread := sorted(found & PASSED):
        log.warning(PASSED_OVER, source.root, ", .".join(unread), source.root)


def _tokenizer(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The autoencoder on this process's device; ConfigError where it makes no codes."""
    import torch

    from stages.vqvae.load import load_autoencoder

    cuda = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    model, about = load_autoencoder(folder, device)
    if not model.codebook_sizes:
        raise ConfigError(
            f"{folder} holds an autoencoder with bottleneck '{model.kind}', which has no codes.\n"
            "Set vqvae.bottleneck=vq (or fsq), or leave out the sections codes and prior."
        )
    return model, about


def _results(out: Path) -> dict[str, Any]:
    from pipeline.shard_index import open_shards

    info = open_shards(out).info
    return {
        "samples": {name: split["samples"] for name, split in info["splits"].items()},
        "levels": info["levels"],
        "variants": info["variants"],
        "tokenizer": info["tokenizer"],
        "rejects": info["rejects"],
        "conditions": info["conditions"],
    }


def check(cfg: CodesConfig, recipe: Recipe) -> None:
    """Encoders are looked for before anything is trained.

    Raises:
        ValueError: a folder that holds no model; a hub id that is not here, where the hub may not be asked.
    """
    for name in ("text", "audio", "vector", "picture"):
        where = getattr(cfg.conditions, name)
        if where == "auto" and name in SEEN and not recipe.has("align"):
            raise ValueError(
                f"codes.conditions.{name}=auto takes the CLIP of a stage align, and there is none. Name one: "
                f"codes.conditions.{name}=openai/clip-vit-large-patch14"
            )
        if where == "log-mel" and name != "audio":
            raise ValueError(
                f"codes.conditions.{name}=log-mel: log-mel hears sounds. It goes with codes.conditions.audio."
            )
        if where not in ("auto", "none", "log-mel"):
            check_model(f"codes.conditions.{name}", where)
            _check_kind(f"codes.conditions.{name}", name, where)


def _check_kind(setting: str, name: str, where: str) -> None:
    """ValueError where a folder's model is one of another kind than is asked for."""
    kind = str(read_json(Path(where) / "config.json").get("model_type", "")) if Path(where).is_dir() else ""
    hears = kind in HEARING
    if kind and (hears != (name == "audio") or (name in SEEN and not kind.startswith("clip"))):
        what = {"text": "a text model", "audio": f"one of {', '.join(HEARING)}"}.get(name, "a CLIP")
        raise ValueError(f"{setting}={where} holds a model of type '{kind}', and {what} is wanted.")


def picture_size(recipe: Recipe) -> int | None:
    """Side of the pictures that codes are made of, in pixels; None where neither recipe nor a folder it uses says."""
    for name, section in recipe.sections.items():
        if name.partition("@")[0] == "vqvae" and isinstance(section.get("image_size"), int):
            return int(section["image_size"])
    if "vqvae" in recipe.use:
        size = read_json(Path(recipe.use["vqvae"]) / MANIFEST).get("results", {}).get("image_size")
    elif "shards" in recipe.use:
        size = read_json(Path(recipe.use["shards"]) / "dataset.json").get("image_size")
    else:
        size = recipe.sections.get("shards", {}).get("size", SHARDS_SIZE)
    return size if isinstance(size, int) else None


def check_data(cfg: CodesConfig, recipe: Recipe, shards: Path) -> None:
    """What is asked of captions and sounds against what the shards hold.

    Raises:
        ValueError: an encoder is named for what is not there, or the one that large pictures' captions take is missing.
    """
    from pipeline.shard_index import open_shards

    source = open_shards(shards)
    info, modalities = source.info, modalities_of(source)
    cfg.conditions.refuse_absent(modalities)
    said = "text" in modalities and cfg.conditions.text == "auto" and not recipe.has("align")
    if said and (picture_size(recipe) or info.get("image_size", 0)) >= LARGE:
        check_model(f"from {LARGE} px on captions are read by codes.conditions.text", LARGE_TEXT)


STAGE = Stage(
    name="codes",
    config=CodesConfig,
    needs=lambda recipe: ("shards", "vqvae", *(["align"] if recipe.has("align") else [])),
    makes=("dataset.json",),
    run=run,
    distributed=True,
    check=check,
    check_data=check_data,
)
