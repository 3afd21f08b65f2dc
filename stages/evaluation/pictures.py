"""Real pictures with their labels and attributes, for probes and comparisons.

Shapes: b batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from pipeline.samples import Sample, label_of
from pipeline.shards import Draw
from stages.attributes import numbers_of
from stages.images import CropDecode


@dataclass(frozen=True)
class LabelledDecode:
    """A decode function of the reader: the crop, the class (-1: none) and a number per attribute (-1: absent)."""

    crop: CropDecode
    values: Mapping[str, list[str]]

    def __call__(self, sample: Sample, draw: Draw) -> dict[str, np.ndarray | int | float | str]:
        """`image`, `label`, and `attribute/<name>` each."""
        found: dict[str, Any] = dict(self.crop(sample, draw))
        found["label"] = label_of(sample)
        return found | {f"attribute/{name}": number for name, number in numbers_of(sample, self.values).items()}


def attribute_numbers(batch: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Int[Tensor, " b"]]:
    """The attribute numbers of a batch by name."""
    return {name: batch[f"attribute/{name}"] for name in names}
