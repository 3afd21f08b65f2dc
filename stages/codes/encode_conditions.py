"""What the frozen encoders say of a sample's captions and sound, as members of a code shard.

Stored are unmasked tokens only, in fp16: `text.npy` (all captions behind one another), `text.counts.npy` (tokens of
each), `text.pooled.npy`; `audio.npy`, `audio.pooled.npy`. With `cache: live` the caption and the sound themselves.

Shapes: c captions of a sample, t tokens, d width.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError, DataError
from pipeline.samples import SOUND_MEMBERS, Sample, encode_npy
from stages.codes.config import LARGE, LARGE_TEXT, SEEN, ConditionsConfig
from stages.conditioning.audio_encoder import AudioEncoder
from stages.conditioning.condition import Condition
from stages.conditioning.image_encoder import ImageEncoder
from stages.conditioning.said import Said
from stages.conditioning.text_encoder import TextEncoder

ALIGN = "align"
ALIGNED = {"text": "clip", "audio": "audio", "vector": "clip", "picture": "clip"}
"""Where `align` keeps the encoder of a modality."""
KINDS: dict[str, Any] = {
    "text": TextEncoder, "audio": AudioEncoder, "vector": ImageEncoder, "picture": ImageEncoder
}  # fmt: skip
UNHEARD = (
    "the shards hold %s, and no prior will listen to it. Add a section 'align: {}', name an encoder "
    "(codes.conditions.%s=%s), or write  none  there."
)
FOR_EXAMPLE = {"text": LARGE_TEXT, "audio": "laion/clap-htsat-unfused"}
log = logging.getLogger(__name__)


@dataclass
class ConditionEncoders:
    """The encoders of one extraction and how their words are kept."""

    cfg: ConditionsConfig
    text: TextEncoder | None = None
    audio: AudioEncoder | None = None
    vector: ImageEncoder | None = None
    picture: ImageEncoder | None = None
    names: dict[str, str] = field(default_factory=dict)
    read: int = 0
    """Captions encoded so far, and how many of them were longer than their encoder takes."""
    cut: int = 0

    @classmethod
    def load(
        cls, cfg: ConditionsConfig, modalities: list[str], align: Path | None, device: torch.device, size: int = 0
    ) -> ConditionEncoders:
        """The encoders for what the data has; none for what it lacks. ConfigError where one cannot be loaded.

        Args:
            modalities: what the data has: `text`, `audio`, `source`.
            size: of the pictures.
        """
        found = cls(cfg)
        try:
            cfg.refuse_absent(modalities)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        there = {*modalities, "picture", *(["vector"] if cfg.image or "source" in modalities else [])}
        for name, kind in KINDS.items():
            wanted = getattr(cfg, name)
            own = align / "model" / ALIGNED[name] if align is not None else None
            where = _own_or_large(name, own, size) if wanted == "auto" else wanted
            if where == "none" and wanted == "auto" and name in modalities:
                log.warning(UNHEARD, name, name, FOR_EXAMPLE[name])
            if where == "none" or name not in there:
                continue
            setattr(found, name, kind.load(where, device))
            found.names[name] = ALIGN if where == str(own) else _lasting(where)
        return found

    def about(self) -> dict[str, Any]:
        """Per modality the encoder's name, fingerprint, widths and how its words are kept; for `dataset.json`."""
        found: dict[str, Any] = {}
        for name in KINDS:
            if (one := getattr(self, name)) is not None:
                cache = "shards" if self.cfg.stored or name in SEEN else "live"
                found[name] = {"encoder": self.names[name], "fingerprint": one.fingerprint()}
                found[name] |= {"width": one.width, "projection": one.projection, "cache": cache}
        return found

    def vectors(self, encoder: ImageEncoder, pictures: np.ndarray) -> list[bytes]:
        """What a vision tower sees in pictures uint8 (b, 3, s, s), each as a member."""
        return [encode_npy(pooled) for _, pooled in self._rows("pictures", encoder, torch.from_numpy(pictures))]

    def members(self, said: list[Said], samples: list[Sample]) -> list[dict[str, bytes]]:
        """Further members of each sample."""
        if not self.cfg.stored:
            sounds = SOUND_MEMBERS if self.audio is not None else ()
            return [{e: sample.members[e] for e in sounds if e in sample.members} for sample in samples]
        spoken = self._audio(said)
        return [{**text, **audio} for text, audio in zip(self._text(said), spoken, strict=True)]

    def _text(self, said: list[Said]) -> list[dict[str, bytes]]:
        if self.text is None:
            return [{} for _ in said]
        texts = sorted({caption for one in said for caption in one.captions}, key=lambda t: (len(t), t))
        of = dict(zip(texts, self._rows("captions", self.text, texts), strict=True))
        long = {text for text in texts if self.text.cut_off(text)}
        self.read += sum(len(one.captions) for one in said)
        self.cut += sum(caption in long for one in said for caption in one.captions)
        return [_text_members([of[caption] for caption in one.captions]) for one in said]

    def _audio(self, said: list[Said]) -> list[dict[str, bytes]]:
        sounds = [one.sound for one in said if one.sound is not None]
        rows = iter(self._rows("sounds", self.audio, sounds) if self.audio is not None else [])
        return [_audio_members(next(rows)) if self.audio and one.sound is not None else {} for one in said]

    def _rows(self, what: str, encoder: Any, given: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """(tokens (t, d), pooled (d,)) in fp16 of each text, sound or picture."""
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for at in range(0, len(given), self.cfg.batch_size):
            found += _unmasked(encoder(given[at : at + self.cfg.batch_size]), what)
        return found


def _own_or_large(name: str, own: Path | None, size: int) -> str:
    """The run's own encoder; without one, of captions of large pictures, OpenAI's CLIP."""
    if own is not None and own.is_dir():
        return str(own)
    return LARGE_TEXT if name == "text" and own is None and size >= LARGE else "none"


def _lasting(where: str) -> str:
    """A folder by its whole path: a painter may be started elsewhere. A hub id as it is."""
    return str(Path(where).resolve()) if Path(where).is_dir() else where


def _unmasked(condition: Condition, what: str) -> list[tuple[np.ndarray, np.ndarray]]:
    tokens, pooled = condition.tokens.cpu().half().numpy(), condition.pooled.cpu().half().numpy()
    masks = condition.mask.cpu().numpy()
    rows = [(t[m], p) for t, p, m in zip(tokens, pooled, masks, strict=True)]
    for words, vector in rows:
        if not (np.isfinite(words).all() and np.isfinite(vector).all()):
            raise DataError(
                f"the encoder of {what} says numbers that 16 bits do not hold. Take another one"
                + (", or codes.conditions.cache=live" if what != "pictures" else "")
            )
    return rows


def _text_members(rows: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, bytes]:
    if not rows:
        return {}
    return {
        "text.npy": encode_npy(np.concatenate([tokens for tokens, _ in rows])),
        "text.pooled.npy": encode_npy(np.stack([pooled for _, pooled in rows])),
        "text.counts.npy": encode_npy(np.array([len(tokens) for tokens, _ in rows], np.uint16)),
    }


def _audio_members(row: tuple[np.ndarray, np.ndarray]) -> dict[str, bytes]:
    return {"audio.npy": encode_npy(row[0]), "audio.pooled.npy": encode_npy(row[1])}
