"""Mean and deviation of the latents before quantization, and of what quantization changes, over the train split.

A GAN over the codes scales its latents with them. Sums are kept shard by shard, so that an extraction that was stopped
goes on, and are added up in the order of the shards: the same figures for any number of processes.

Shapes: b batch, d channels of a level, h and w of a level.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import reduce
from torch import Tensor

Sums = list[dict[str, Any]]


def level_sums(latents: list[Tensor], quantized: list[Tensor]) -> Sums:
    """Sums over (b, h, w) per level and channel, in float64: of values, squares and squared errors."""
    sums: Sums = []
    for before, after in zip(latents, quantized, strict=True):
        z, q = before.double(), after.double()
        parts = {"total": z, "square": z.square(), "error": (z - q).square()}
        level = {name: reduce(part, "b d h w -> d", "sum").tolist() for name, part in parts.items()}
        sums.append({"count": z.shape[0] * z.shape[2] * z.shape[3], **level})
    return sums


def add(one: Sums | None, other: Sums) -> Sums:
    """Add two sets of sums."""
    if one is None:
        return other
    return [{key: _plus(a[key], b[key]) for key in a} for a, b in zip(one, other, strict=True)]


def _plus(a: Any, b: Any) -> Any:
    return [x + y for x, y in zip(a, b, strict=True)] if isinstance(a, list) else a + b


def statistics(sums: Sums) -> list[dict[str, list[float]]]:
    """Per level: `mean`, `std` and `error` (root mean square of latent minus code vector) of every channel."""
    result = []
    for level in sums:
        total, square, error = (torch.tensor(level[name], dtype=torch.float64) for name in ("total", "square", "error"))
        mean = total / level["count"]
        std = (square / level["count"] - mean.square()).clamp(min=0).sqrt()
        result.append({
            "mean": mean.tolist(), "std": std.tolist(), "error": (error / level["count"]).sqrt().tolist()
        })  # fmt: skip
    return result
