"""Real pictures with their labels and attributes, for probes and comparisons.

Shapes: b batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from pipeline.samples import Sample, label_of, record_of
from pipeline.shard_index import Shard
from pipeline.shards import Draw, read_samples
from stages.images import CropDecode

MOST_VALUES = 64
"""Of an attribute: one with more is a name or a number. Classes may be as many as they are."""
LOOKED_AT = 4000
CLASS = "class"


@dataclass(frozen=True)
class LabelledDecode:
    """A decode function of the reader: the crop, the class (-1: none) and a number per attribute (-1: absent)."""

    crop: CropDecode
    values: Mapping[str, list[str]]

    def __call__(self, sample: Sample, draw: Draw) -> dict[str, np.ndarray | int | float | str]:
        """`image`, `label`, and `attribute/<name>` each."""
        found: dict[str, Any] = dict(self.crop(sample, draw))
        said = attributes_of(sample)
        found["label"] = label_of(sample)
        for name, values in self.values.items():
            found[f"attribute/{name}"] = values.index(said[name]) if said.get(name) in values else -1
        return found


def attributes_of(sample: Sample) -> dict[str, str]:
    """`attributes` of the sample's `.json`, and its class as one more."""
    record = record_of(sample).get("attributes")
    said = {n: value for n, value in record.items() if isinstance(value, str)} if isinstance(record, dict) else {}
    if (label := label_of(sample)) >= 0:
        said[CLASS] = str(label)
    return said


def find_values(shards: list[Shard], num_classes: int) -> dict[str, list[str]]:
    """The attributes of the data and their values, from the first few thousand samples of every split given."""
    found: dict[str, set[str]] = defaultdict(set)
    samples = (sample for shard in shards for sample in read_samples(shard))
    for sample in islice(samples, LOOKED_AT):
        for name, value in attributes_of(sample).items():
            found[name].add(value)
    if num_classes:
        found[CLASS] = {str(i) for i in range(num_classes)}
    order = {name: sorted(values, key=lambda v: (len(v), v)) for name, values in sorted(found.items())}
    return {n: values for n, values in order.items() if len(values) >= 2 and (n == CLASS or len(values) <= MOST_VALUES)}


def labels_of(batch: dict[str, Any], names: Mapping[str, list[str]]) -> dict[str, Int[Tensor, " b"]]:
    """The attribute numbers of a batch by name."""
    return {name: batch[f"attribute/{name}"] for name in names}
