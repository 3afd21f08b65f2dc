"""Puts a prior stage together: codes, backend, model, task; then the loop."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.backend import Backend
from pipeline.config import folders_of
from pipeline.errors import ConfigError, DataError, MissingInputError
from pipeline.randomness import seed_of
from pipeline.schema import plain
from pipeline.shards import open_batches, read_pass
from pipeline.tracking import Tracker
from pipeline.train_loop import train
from stages.codes.read import CodesDecode, CodeSet, open_codes
from stages.codes.read_conditions import ConditionDecode, Encoders, check_listened, conditions_of, encoders_of
from stages.conditioning.condition import PICTURE
from stages.prior.config import PriorConfig
from stages.prior.model import Prior
from stages.prior.task import PriorTask
from stages.vqvae.load import load_autoencoder

ATTEND_EVERY = 2
"""Layers from one that reads the conditions' tokens to the next: every one of four was slower and no more obedient
(docs/log.md, 2026-11-25 (fourth))."""
LONE_PICTURE = (
    "codes.conditions.picture lies in another space than text and sounds here: it serves  sample --as alike  and "
    "teaches nothing of them. Name the CLIP that says the captions there, or leave it out."
)
SPEAKING = {"text", "audio"}
log = logging.getLogger(__name__)
CENTRED, CENTRED_AT_MOST, AT_ONCE = 512, 4096, 64
"""Samples whose mean is taken away from what encoders say; those read, where few have a condition; those at a time."""


def train_prior(
    cfg: PriorConfig, codes_folder: Path, tokenizer: Path, out: Path, align: Path | None = None
) -> dict[str, Any]:
    """Train in the stage folder `out`; the figures on val, with levels and classes."""
    codes = open_codes(codes_folder, tokenizer)
    backend = Backend.start(cfg.backend, seed=cfg.seed)
    prior = build(cfg, codes, load_autoencoder(tokenizer)[0].codebooks())
    if is_alone(PICTURE, prior.arguments["conditions"], prior.arguments["shared"]):
        log.warning(LONE_PICTURE)
    heard = {name: about for name, about in codes.conditions.items() if name in listened(prior)}
    lent = folders_of(codes_folder.resolve().parent, "align")
    live = encoders_of(heard, [*([align] if align else []), *lent], backend.device, only_live=True)
    told = ConditionDecode(heard, tuple(codes.grids), live.get("audio")) if heard else None
    decode = CodesDecode(len(codes.grids), any_view=True, told=told)
    batches = open_batches(
        codes.shards.split("train"), decode, cfg.data, seed=cfg.seed, rank=backend.rank, world=backend.world
    )
    _centre(prior, codes, decode, live, backend)
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


def build(cfg: PriorConfig, codes: CodeSet, codebooks: Sequence[Tensor]) -> Prior:
    """The model this config describes over these codes; the same weights on every process.

    Raises:
        ConfigError: a window that does not fit the grids; `init_from` names no prior of this shape.
    """
    modalities = _widths(cfg, codes)
    attend = attended(cfg.attend, modalities)
    if cfg.wordless and "text" not in attend:
        raise ConfigError("prior.wordless: no words are read here anyway. Set wordless=0, or attend=[text].")
    if cfg.condition_layers and not set(attend) - {"image"}:
        raise ConfigError("prior.condition_layers: there are no tokens to refine here. Set condition_layers=0.")
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
                code_widths=[codebook.shape[1] for codebook in codebooks],
                attend=attend,
                attend_every=min(ATTEND_EVERY, cfg.depth),
                condition_layers=cfg.condition_layers,
                shared=in_one_space(codes, modalities),
                foretells=cfg.foretold > 0,
            )
        except ValueError as error:
            raise ConfigError(f"prior: {error}") from error
    if cfg.init_from:
        start_from(prior, Path(cfg.init_from))
    prior.know(codebooks)
    return prior


def _widths(cfg: PriorConfig, codes: CodeSet) -> dict[str, int]:
    """What the prior listens to, and how wide it comes."""
    widths = {"class": len(codes.classes), "image": 1} | {
        name: about["width"] for name, about in codes.conditions.items() if "width" in about
    }
    return {name: widths[name] for name in check_listened(cfg.conditions, codes.modalities)}


def attended(wanted: Sequence[str], modalities: Iterable[str]) -> list[str]:
    """Whose tokens are read: none where nothing but a class would be, as one token says no more than its vector.

    Raises:
        ConfigError: of something this prior does not listen to.
    """
    if missing := sorted(set(wanted) - {"auto"} - set(modalities)):
        raise ConfigError(
            f"prior.attend names {missing[0]}, and this prior listens to {', '.join(modalities) or 'nothing'}. "
            "Take it out."
        )
    names = [name for name in modalities if "auto" in wanted or name in wanted]
    return [] if names == ["class"] else names


def in_one_space(codes: CodeSet, modalities: Iterable[str]) -> dict[str, int]:
    """The conditions whose vectors lie in the shared space of one CLIP, and its width; empty where none shares."""
    spaces: dict[str, dict[str, int]] = {}
    for name in modalities:
        about = codes.conditions.get(name, {})
        if about.get("projection"):
            spaces.setdefault(about["encoder"], {})[name] = about["projection"]
    return max((space for space in spaces.values() if len(space) > 1), key=len, default={})


def is_alone(name: str, conditions: Iterable[str], shared: Iterable[str]) -> bool:
    """Whether a condition that is to teach what text and sounds mean lies in no space with either."""
    listened = set(conditions)
    return name in listened and bool(listened & SPEAKING) and not (name in set(shared) and SPEAKING & set(shared))


def _centre(prior: Prior, codes: CodeSet, decode: CodesDecode, live: Encoders, backend: Backend) -> None:
    """Tell the model the mean of what each encoder says, from the first samples of train: the same on every process."""
    names = sorted(set(prior.arguments["conditions"]) - {"class", "image"})
    if names:
        read = read_pass(codes.shards.split("train"), decode, batch_size=AT_ONCE, limit=CENTRED_AT_MOST)
        batches = (conditions_of(backend.to_device(batch), names, len(codes.classes), live) for batch in read)
        prior.mixer.centre(batches, CENTRED)


def start_from(prior: Prior, folder: Path) -> None:
    """Begin with the weights of a finished prior stage.

    Raises:
        MissingInputError: no prior in this folder.
        ConfigError: one of another shape.
        DataError: its file is damaged.
    """
    path = folder / "model" / "model.safetensors"
    if not path.is_file():
        raise MissingInputError(f"prior.init_from={folder} holds no trained prior (model/model.safetensors).")
    try:
        prior.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise DataError(f"prior.init_from={folder} is damaged: {str(error)[:200]}") from error
    except RuntimeError as error:
        untaught = prior.foretelling is not None and '"foretelling.' in str(error)
        hint = " It does not foretell: set prior.foretold=0." if untaught else ""
        raise ConfigError(f"prior.init_from={folder} is a prior of another shape: {str(error)[:200]}{hint}") from error
