"""Settings of the stage `codes`. Torch-free."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from pipeline.hub import at_home
from pipeline.tracking import TrackingConfig
from pipeline.training_config import identity

LATENTS = ("statistics", "full", "none")
CACHES = ("auto", "live", "shards")
SEEN = ("vector", "picture")
"""Conditions a CLIP sees; stored always."""
SOURCES = ("grey", "sketch")
LARGE = 256
"""Image size from which captions are read by OpenAI's CLIP where nobody says who should."""
LARGE_TEXT = "openai/clip-vit-large-patch14"
PAIR = "source.png"
"""The member that holds the picture another is made from."""


@dataclass(frozen=True, kw_only=True)
class ConditionsConfig:
    """Which frozen encoders say what captions and sounds mean, and which source pictures are encoded beside."""

    text: str = "auto"
    """A text model of `transformers` (folder or hub id), `none`, or `auto`: that of the stage `align`, if there is;
    without one, from 256 px on, OpenAI's CLIP ViT-L/14 where the data has captions."""
    audio: str = "auto"
    """An audio model of `transformers` (folder or hub id), `log-mel`, `none`, or `auto`: that of `align`."""
    image: tuple[str, ...] = ()
    """Source pictures to make of every picture: grey, sketch. Pairs in the data (`source`) are always encoded."""
    vector: str = "none"
    """A CLIP (folder or hub id; `auto`: that of `align`) whose vector of each source picture is a condition too."""
    picture: str = "none"
    """A CLIP (as for `vector`) whose vector of each picture itself a prior learns from in some rows, in place of its
    caption and sound: it says everything of the picture, and what lies in one space is learned for all that does. It is
    that of the first view."""
    cache: str = "auto"
    """`shards` stores what the encoders say, `live` asks them while training; `auto` stores."""
    batch_size: int = identity(64)
    """Captions or sounds encoded at once."""

    def __post_init__(self) -> None:
        at_home(self, "text", "audio", "vector", "picture")
        if self.cache not in CACHES:
            raise ValueError(f"conditions.cache is one of {', '.join(CACHES)}; got '{self.cache}'.")
        if unknown := set(self.image) - set(SOURCES):
            raise ValueError(f"conditions.image knows {', '.join(SOURCES)}; got {', '.join(sorted(unknown))}.")
        if self.batch_size < 1:
            raise ValueError(f"conditions.batch_size must be positive; got {self.batch_size}.")

    def refuse_absent(self, modalities: Collection[str]) -> None:
        """ValueError where an encoder is named for what the data (`text`, `audio`, `source`) does not have."""
        absent = {
            "text": "text" not in modalities and "text in the shards",
            "audio": "audio" not in modalities and "audio in the shards",
            "vector": not self.image and "source" not in modalities and "source picture (codes.conditions.image)",
        }
        for name, what in absent.items():
            if what and (wanted := getattr(self, name)) not in ("auto", "none"):
                raise ValueError(f"codes.conditions.{name}={wanted}, but there is no {what}: leave it out.")

    @property
    def stored(self) -> bool:
        """Whether the encoders' words go into the shards."""
        return self.cache != "live"


@dataclass(frozen=True, kw_only=True)
class CodesConfig:
    """How images become codes."""

    variants: int = 1
    """Views of every image: the centre crop first, then random crops, so that a prior does not overfit one view."""
    flips: bool | Literal["auto"] = "auto"
    """Mirror every other view; `auto` does unless the data has captions, which may say left or right."""
    latents: str = "statistics"
    """What is kept of the latents before quantization, for a GAN: `statistics`, `full` (float16 members) or `none`."""
    conditions: ConditionsConfig = field(default_factory=ConditionsConfig)
    """Encoders of captions and sounds, and source pictures."""
    batch_size: int = identity(64)
    """Views encoded at once; halved when memory runs out."""
    workers: int = identity(0)
    """Processes that read samples and draw sketches; 0 takes one per core where there is much to draw, else none."""
    timeout_seconds: int = identity(1800)
    """How long the first process waits without any other finishing a shard before it gives up."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata={"identity": False})
    """Filled from the recipe."""

    def __post_init__(self) -> None:
        if self.variants < 1 or self.batch_size < 1:
            raise ValueError(f"codes.variants and batch_size are positive; got {self.variants} and {self.batch_size}.")
        if self.latents not in LATENTS:
            raise ValueError(f"codes.latents is one of {', '.join(LATENTS)}; got '{self.latents}'.")
        if self.flips not in (True, False, "auto"):
            raise ValueError(f"codes.flips is true, false or 'auto'; got '{self.flips}'.")
