"""Settings of the stage `shards`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from pipeline.training_config import identity

FORMATS = ("jpg", "png", "webp", "keep")
LABELS = ("auto", "folders", "none")


@dataclass(frozen=True, kw_only=True)
class ShardsConfig:
    """What to read and how to store it. The same settings and source give the same bytes."""

    source: str
    """A folder of images (class folders, `metadata.jsonl|csv|parquet`, or bare) or of tars, or `birds`. CUB-200-2011
    and ImageNet are read as they are unpacked, VGGSound with its frames and sounds cut out."""
    size: int = 256
    """Side of the square training image, in pixels."""
    val: float = 0.02
    """Share of the samples that becomes the split `val`, chosen by a hash of each file's name; kept out of train."""
    count: int | None = None
    """`birds`: images in train and val together (20,000). Other sources: the most to take; all by default."""
    labels: str = "auto"
    """Class folders: `auto` (labels when two or more folders hold the images), `folders` or `none`."""
    format: str = "jpg"
    """What scaled images are stored as: jpg, png, webp or keep (the source's). Small enough files stay as they are."""
    quality: int = 95
    """Of jpg and webp; jpg keeps full colour resolution."""
    margin: float = 1.125
    """The short side is stored at margin x size, room for random crops."""
    shard_samples: int = 1000
    """Most samples in one shard."""
    with_sounds: bool = True
    """Store sounds, where the source has them."""
    spoken: float = 0.0
    """`birds`: share of the sounds of one bird that are a caption spoken by espeak-ng instead of a call."""
    pairs: float = 0.2
    """`birds`: share of the drawn scenes with two birds; fewer of those are fit for train, so there it is less."""
    species: tuple[str, ...] = ()
    """`birds`: of these species alone, classes in the order of all eight; all where none is named."""
    colours: tuple[str, ...] = ()
    """`birds`: with bodies and wings of these colours alone; all eight where none is named. Of few colours two birds
    are rarer than `pairs` says: all of theirs have to be among them."""
    seed: int = 0
    """Of the split, of the order and of what `birds` draws."""
    workers: int = identity(0)
    """Worker processes; 0 takes one per core. Any number writes the same bytes."""
    max_reject_rate: float = identity(0.05)
    """Stop when more than this share of the files is unusable."""

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("source is a folder of images or of tars, or 'birds'; got ''.")
        if not 8 <= self.size <= 8192:
            raise ValueError(f"size is from 8 to 8192 pixels; got {self.size}.")
        if not 0 <= self.spoken <= 1 or not 0 <= self.pairs <= 1:
            raise ValueError(f"spoken and pairs are shares from 0 to 1; got {self.spoken} and {self.pairs}.")
        if self.species or self.colours:
            self._choose_birds()
        if not 0 <= self.val < 1:
            raise ValueError(f"val is a share from 0 to below 1; got {self.val}.")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1; got {self.count}.")
        if self.labels not in LABELS or self.format not in FORMATS:
            raise ValueError(
                f"labels is one of {LABELS} and format one of {FORMATS}; got {self.labels}, {self.format}."
            )
        if not 1 <= self.quality <= 100 or not 1 <= self.margin <= 4:
            raise ValueError(f"quality is 1 to 100 and margin 1 to 4; got {self.quality}, {self.margin}.")
        if self.shard_samples < 1 or self.workers < 0 or not 0 <= self.max_reject_rate <= 1:
            raise ValueError("shard_samples must be at least 1, workers at least 0, max_reject_rate from 0 to 1.")

    def _choose_birds(self) -> None:
        """In the order of all there are, so that one choice is one setting; ValueError unless all can be drawn."""
        from data_prep.birds import COLOURS, SPECIES, kept_out

        for name, known in (("species", SPECIES), ("colours", COLOURS)):
            if unknown := sorted(set(getattr(self, name)) - set(known)):
                raise ValueError(f"{name} knows {', '.join(known)}; got {', '.join(unknown)}.")
            chosen = tuple(one for one in known if one in getattr(self, name))
            object.__setattr__(self, name, () if len(chosen) == len(known) else chosen)
        if len(self.colours) == 1:
            raise ValueError(f"colours are two or more, wings differ from the body; got {self.colours[0]} alone.")
        least = 2 if self.pairs == 1 else 1  # the wings of two birds differ
        short = [one for one in self.species or SPECIES if len(set(self.colours or COLOURS) - kept_out(one)) < least]
        if short:
            raise ValueError(
                f"wings in {', '.join(self.colours)} are kept out of train for {', '.join(short)} (they make the split "
                "unseen). Name more colours, or other species."
            )

    @property
    def stored_side(self) -> int:
        """Pixels of the short side as stored."""
        return math.ceil(self.margin * self.size)

    @property
    def processes(self) -> int:
        """Worker processes to start."""
        return self.workers or len(os.sched_getaffinity(0))
