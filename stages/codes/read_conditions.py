"""Conditions out of code shards: a decode function, and batches as `Conditions`.

Stored conditions are padded to one length; with `cache: live` the reader hands on captions and windows of sound, and
the encoders are asked on the training device.

Shapes: b batch, t tokens, d width, n codes of a level, N codes of all levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from pipeline.errors import ConfigError
from pipeline.samples import Sample, decode_npy
from pipeline.shards import Draw
from stages.codes.encode_conditions import ALIGNED, KINDS
from stages.conditioning.audio_encoder import AudioEncoder
from stages.conditioning.condition import Condition, Conditions, class_condition
from stages.conditioning.image_encoder import vector_condition
from stages.conditioning.pretrained import FEW_TOKENS
from stages.conditioning.said import captions_of, sound_of
from stages.conditioning.source_codes import image_condition
from stages.conditioning.text_encoder import TextEncoder

About = dict[str, dict[str, Any]]
Encoders = dict[str, Any]


@dataclass(frozen=True)
class ConditionDecode:
    """Fields of one sample: text, audio and source picture as far as they are listened to.

    `text` float16 (t, d), `text_pooled` (d,), `text_count` (0: none), or live `caption`; `audio` alike, or live
    `sound.<name>` and `has_sound`; `source<i>` int32 (n,) per level and `has_source`.
    """

    about: About
    grids: tuple[tuple[int, int], ...]
    hears: AudioEncoder | None = None
    """Live: prepares sounds."""
    kind: str = ""
    """The kind of source picture to read; any where empty."""

    def __call__(self, sample: Sample, draw: Draw, view: int, *, any_of: bool) -> dict[str, Any]:
        """`view`: which view of the picture was taken; `any_of`: draw a caption and a kind of source."""
        fields: dict[str, Any] = {}
        if "text" in self.about:
            fields |= self._text(sample, draw, any_of)
        if "audio" in self.about:
            fields |= self._audio(sample)
        if "image" in self.about:
            fields |= self._source(sample, draw, view, any_of)
        if "picture" in self.about:
            seen = sample.members.get("picture.vector.npy")
            nothing = np.zeros(self.about["picture"]["width"], np.float16)
            fields |= {"picture": nothing if seen is None else decode_npy(seen), "has_picture": int(seen is not None)}
        return fields

    def _text(self, sample: Sample, draw: Draw, any_of: bool) -> dict[str, Any]:
        about = self.about["text"]
        if about["cache"] == "live":
            captions = captions_of(sample)
            return {"caption": captions[_one(len(captions), draw, "caption", any_of)] if captions else ""}
        tokens = np.zeros((about["tokens"], about["width"]), np.float16)
        pooled, count = np.zeros(about["width"], np.float16), 0
        if "text.npy" in sample.members:
            counts = decode_npy(sample.members["text.counts.npy"])
            which = _one(len(counts), draw, "caption", any_of)
            first, count = int(counts[:which].sum()), int(counts[which])
            tokens[:count] = decode_npy(sample.members["text.npy"])[first : first + count]
            pooled = decode_npy(sample.members["text.pooled.npy"])[which]
        return {"text": tokens, "text_pooled": pooled, "text_count": count}

    def _audio(self, sample: Sample) -> dict[str, Any]:
        about = self.about["audio"]
        if about["cache"] == "live":
            assert self.hears is not None
            sound = sound_of(sample)
            silence = (np.zeros((1, self.hears.rate // 2), np.float32), self.hears.rate)
            found = self.hears.features([sound or silence])
            return {f"sound.{k}": v[0].numpy() for k, v in found.items()} | {"has_sound": int(sound is not None)}
        tokens = np.zeros((FEW_TOKENS, about["width"]), np.float16)
        pooled, count = np.zeros(about["width"], np.float16), 0
        if "audio.npy" in sample.members:
            stored = decode_npy(sample.members["audio.npy"])
            count, pooled = len(stored), decode_npy(sample.members["audio.pooled.npy"])
            tokens[:count] = stored
        return {"audio": tokens, "audio_pooled": pooled, "audio_count": count}

    def _source(self, sample: Sample, draw: Draw, view: int, any_of: bool) -> dict[str, Any]:
        wanted = [self.kind] if self.kind else self.about["image"]["kinds"]
        kinds = [kind for kind in wanted if f"{kind}.level0.npy" in sample.members]
        if not kinds:
            empty = {f"source{i}": np.zeros(h * w, np.int32) for i, (h, w) in enumerate(self.grids)}
            nothing = np.zeros(self.about.get("vector", {}).get("width", 0), np.float16)
            return {**empty, "has_source": 0} | ({"vector": nothing} if "vector" in self.about else {})
        kind = kinds[_one(len(kinds), draw, "source", any_of)]
        fields: dict[str, Any] = {"has_source": 1}
        if "vector" in self.about:
            fields["vector"] = decode_npy(sample.members[f"{kind}.vector.npy"])
        for i in range(len(self.grids)):
            codes = decode_npy(sample.members[f"{kind}.level{i}.npy"])[view]
            fields[f"source{i}"] = rearrange(codes, "h w -> (h w)").astype(np.int32)
        return fields


def _one(count: int, draw: Draw, purpose: str, any_of: bool) -> int:
    return int(draw.rng(purpose).integers(count)) if any_of and count > 1 else 0


def encoders_of(about: About, align: Iterable[Path], device: torch.device, *, only_live: bool = False) -> Encoders:
    """The text and audio encoders that made these conditions, by modality.

    Args:
        about: the codes' `conditions`.
        align: folders of finished `align` stages, one of which holds the encoders called `align`.
        only_live: none of those whose words are stored.

    Raises:
        ConfigError: an encoder is not there any more, or is another one.
    """
    found: Encoders = {}
    for name in KINDS:
        if name not in about or (only_live and about[name]["cache"] != "live"):
            continue
        one = about[name]
        places = [folder / "model" / ALIGNED[name] for folder in align] if one["encoder"] == "align" else [None]
        there = [place or one["encoder"] for place in places if place is None or place.is_dir()]
        loaded = (KINDS[name].load(place, device) for place in there)
        right = next((encoder for encoder in loaded if encoder.fingerprint() == one["fingerprint"]), None)
        if right is None:
            what = "another model than" if there else "not where the run expects"
            raise ConfigError(
                f"the {name} encoder '{one['encoder']}' is {what} the one these codes were made with "
                f"({one['fingerprint'][:12]}).\nPut that one back (use: {{align: DIR}} names another run's), or make "
                "the codes again with --redo codes."
            )
        found[name] = right
    return found


def conditions_of(batch: dict[str, Any], modalities: Iterable[str], num_classes: int, live: Encoders) -> Conditions:
    """The conditions of a batch on its device; `batch` holds what `CodesDecode` gave."""
    found: Conditions = {}
    for name in modalities:
        if name == "class":
            found[name] = class_condition(batch["label"], num_classes)
        elif name == "image":
            levels = sorted(key for key in batch if key.startswith("source"))
            found[name] = image_condition([batch[key].long() for key in levels], batch["has_source"].bool())
        elif name == "vector":
            found[name] = vector_condition(batch["vector"].float(), batch["has_source"].bool())
        elif name == "picture":
            found[name] = vector_condition(batch["picture"].float(), batch["has_picture"].bool())
        elif name in batch:
            mask = torch.arange(batch[name].shape[1], device=batch[name].device) < batch[f"{name}_count"][:, None]
            found[name] = Condition(batch[name].float(), batch[f"{name}_pooled"].float(), mask)
        elif name == "text":
            found[name] = text_condition(batch["caption"], live["text"])
        else:
            prefix = "sound."
            heard = {k.removeprefix(prefix): v for k, v in batch.items() if k.startswith(prefix)}
            with torch.no_grad(), torch.autocast(batch["has_sound"].device.type, enabled=False):
                condition = live["audio"].encode(heard)
            here = batch["has_sound"].bool()
            found[name] = Condition(condition.tokens, condition.pooled, condition.mask & here[:, None])
    return found


def text_condition(captions: list[str], encoder: TextEncoder) -> Condition:
    """Captions as a condition; an empty one is a row without text."""
    device = next(encoder.parameters()).device
    with torch.autocast(device.type, enabled=False):  # as they were made for the shards, and are for a painter
        condition = encoder([caption or "-" for caption in captions])
    here = torch.tensor([bool(caption) for caption in captions], device=condition.mask.device)
    return Condition(condition.tokens, condition.pooled, condition.mask & here[:, None])


def check_listened(wanted: Iterable[str], about: list[str]) -> list[str]:
    """The modalities a model listens to: those wanted, `auto` for all; ConfigError where the codes hold them not."""
    names = list(wanted)
    chosen = about if "auto" in names else names
    if missing := [name for name in chosen if name not in about]:
        raise ConfigError(
            f"the codes hold no {missing[0]}: they hold {', '.join(about) or 'no condition'}. Take it out of "
            "prior.conditions, or (class: label the data) name an encoder, as in  "
            "codes.conditions.text=DIR  or a section 'align' (image: codes.conditions.image=[grey]), and --redo codes."
        )
    return [name for name in chosen if name in about]
