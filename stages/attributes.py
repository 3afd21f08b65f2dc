"""What the data says of a picture by itself: `attributes` of a sample's `.json`, and its class as one more."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice

from pipeline.samples import Sample, label_of, record_of
from pipeline.shard_index import Shard
from pipeline.shards import read_samples

MOST_VALUES = 64
"""Of an attribute: one with more is a name or a number. Classes may be as many as they are."""
LOOKED_AT = 4000
CLASS = "class"


def attributes_of(sample: Sample) -> dict[str, str]:
    """`attributes` of the sample's `.json`, and its class as one more."""
    record = record_of(sample).get("attributes")
    said = {n: value for n, value in record.items() if isinstance(value, str)} if isinstance(record, dict) else {}
    if (label := label_of(sample)) >= 0:
        said[CLASS] = str(label)
    return said


def numbers_of(sample: Sample, values: Mapping[str, list[str]]) -> dict[str, int]:
    """The place of a sample's value among the values of each attribute; -1 where it has none of them."""
    said = attributes_of(sample)
    return {name: known.index(said[name]) if said.get(name) in known else -1 for name, known in values.items()}


def named_by_caption(sample: Sample) -> dict[str, frozenset[str]]:
    """The attributes that each caption names, where the sample's `.json` says so under `named`, one list for each.

    Of a sentence that is `spoken` it says so under `spoken_named`.
    """
    record = record_of(sample)
    captions, named = record.get("captions"), record.get("named")
    if not isinstance(captions, list) or not isinstance(named, list) or len(captions) != len(named):
        captions, named = [], []
    texts = [*zip(captions, named, strict=True), (record.get("spoken"), record.get("spoken_named"))]
    return {
        text.strip(): frozenset(name for name in names if isinstance(name, str))
        for text, names in texts
        if isinstance(text, str) and isinstance(names, list)
    }


def in_words(values: Mapping[str, list[str]], classes: Sequence[str]) -> dict[str, list[str]]:
    """The values as captions write them: a class by its name."""
    return {
        name: [classes[int(number)] for number in numbers] if name == CLASS and classes else list(numbers)
        for name, numbers in values.items()
    }


def says(caption: str, word: str) -> bool:
    """Whether a word stands in a caption, in capitals or not; of "tench, Tinca tinca" one of the names does."""
    names = (name.strip() for name in word.lower().replace("_", " ").split(","))
    return any(re.search(rf"\b{re.escape(name)}\b", caption.lower()) is not None for name in names if name)


def find_values(shards: list[Shard], num_classes: int) -> dict[str, list[str]]:
    """The attributes of the data and their values, from the first few thousand samples of every split given."""
    found: dict[str, set[str]] = defaultdict(set)
    samples = (sample for shard in shards for sample in read_samples(shard))
    for sample in islice(samples, LOOKED_AT):
        with contextlib.suppress(ValueError):  # a damaged record: the reader passes over it too, and counts it
            for name, value in attributes_of(sample).items():
                found[name].add(value)
    if num_classes:
        found[CLASS] = {str(i) for i in range(num_classes)}
    order = {name: sorted(values, key=lambda v: (len(v), v)) for name, values in sorted(found.items())}
    return {n: values for n, values in order.items() if len(values) >= 2 and (n == CLASS or len(values) <= MOST_VALUES)}
