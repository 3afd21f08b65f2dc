"""Code shards as a reader sees them: what `dataset.json` says, and a decode function for training.

Shapes: v views, h and w of a level, n = h w codes of a level.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from pipeline.artifacts import fingerprint
from pipeline.errors import ConfigError, DataError
from pipeline.samples import Sample, decode_npy, label_of
from pipeline.shard_index import ShardSet, open_shards
from pipeline.shards import Draw
from stages.codes.read_conditions import ConditionDecode


@dataclass(frozen=True)
class CodeSet:
    """The code shards of one tokenizer."""

    shards: ShardSet
    tokenizer: str
    grids: list[tuple[int, int]]
    codebook_sizes: list[int]
    classes: list[str]
    image_size: int
    variants: int
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the shards hold beside codes and class: `image`, and what `ConditionEncoders.about` says of the others."""

    @property
    def modalities(self) -> list[str]:
        """Everything a model over these codes can listen to."""
        return [*(["class"] if self.classes else []), *sorted(self.conditions)]

    @property
    def info(self) -> dict[str, Any]:
        """`dataset.json`."""
        return self.shards.info


def open_codes(folder: Path, tokenizer: Path | None = None) -> CodeSet:
    """Open a folder of codes.

    Args:
        folder: of the stage `codes`.
        tokenizer: folder of the stage `vqvae` whose codes they must be.

    Raises:
        DataError: these shards hold no codes.
        ConfigError: they are codes of another tokenizer.
    """
    shards = open_shards(folder)
    info = shards.info
    if not {"tokenizer", "levels"} <= set(info):
        raise DataError(
            f"{folder} holds no codes (dataset.json names no tokenizer).\nMake some:  tessera run RECIPE --until codes"
        )
    if tokenizer is not None and (mark := fingerprint(tokenizer)) != info["tokenizer"]:
        raise ConfigError(
            f"{folder} holds codes of another tokenizer ({info['tokenizer'][:12]}) than {tokenizer} ({mark[:12]}).\n"
            "Make them again with --redo codes, or name the matching one:  use: {vqvae: ...}"
        )
    return CodeSet(
        shards=shards,
        tokenizer=info["tokenizer"],
        grids=[(level["height"], level["width"]) for level in info["levels"]],
        codebook_sizes=[level["codebook_size"] for level in info["levels"]],
        classes=list(info.get("classes", [])),
        image_size=info["image_size"],
        variants=info["variants"],
        conditions=dict(info.get("conditions", {})),
    )


@dataclass(frozen=True)
class CodesDecode:
    """A decode function of the reader: `level<i>`, int32 (n,), `label` (-1 where there is none), and conditions.

    Raises, when called, DataError on a missing level: the sample is unreadable.
    """

    num_levels: int
    any_view: bool = False
    """Draw one of the views (and captions, and kinds of source picture) per sample and step; else the first."""
    told: ConditionDecode | None = None
    """Reads what the conditions say; None reads codes and class alone."""

    def __call__(self, sample: Sample, draw: Draw) -> dict[str, Any]:
        fields: dict[str, Any] = {"label": label_of(sample)}
        views = decode_npy(self._member(sample, 0)).shape[0]
        view = int(draw.rng("view").integers(views)) if self.any_view and views > 1 else 0
        for level in range(self.num_levels):
            codes = decode_npy(self._member(sample, level))
            fields[f"level{level}"] = rearrange(codes[view], "h w -> (h w)").astype(np.int32)
        if self.told is not None:
            fields |= self.told(sample, draw, view, any_of=self.any_view)
        return fields

    def _member(self, sample: Sample, level: int) -> bytes:
        if f"level{level}.npy" not in sample.members:
            raise DataError(f"sample '{sample.key}' has no codes of level {level}.")
        return sample.members[f"level{level}.npy"]
