"""From decoded samples to a batch: the seed of a sample's draws, one preallocated array per field, micro-batches.

Shapes: b samples in a batch, h and w image height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.errors import ConfigError, DataError
from pipeline.randomness import numpy_rng
from pipeline.samples import Sample

Fields = dict[str, Any]
"""One decoded sample: arrays, ints, floats and strings by name."""
Batch = dict[str, Any]
"""Stacked fields: arrays as CPU tensors of their own dtype (uint8 images (b, 3, h, w)), ints int64 (b,), floats
float32 (b,), strings list[str]. Always with `key` (list[str]), `row` (the global row) and `epoch` (int64 (b,))."""
FAULTS = (MemoryError, ConfigError, ImportError, NameError)
"""Errors of a decode function that speak of the machine or the code, never of the sample."""


@dataclass(frozen=True)
class Draw:
    """Where a sample goes: what its random draws (crop, flip, caption) may depend on, and nothing else."""

    seed: int
    epoch: int
    step: int
    row: int

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator for this sample and purpose, the same at any number of processes and workers."""
        return numpy_rng(self.seed, purpose, self.step, self.row)


Decode = Callable[[Sample, Draw], Fields]
"""Bytes to fields. Whatever it raises, but for `FAULTS`, means: this sample is unreadable."""


@dataclass(frozen=True)
class Unreadable:
    """A sample whose place another took."""

    shard: str
    key: str
    reason: str


class BatchBuffer:
    """Fills a batch sample by sample, each copied once, straight into its place."""

    def __init__(self, size: int) -> None:
        self._size, self._count = size, 0
        self._columns: dict[str, Any] = {}
        self._keys: list[str] = []
        self._rows = np.empty(size, np.int64)
        self._epochs = np.empty(size, np.int64)

    def add(self, fields: Fields, key: str, draw: Draw) -> None:
        """Append a sample.

        Raises:
            DataError: its fields differ from the first sample's in name, shape or dtype.
        """
        i = self._count
        if i == 0:
            self._columns = {name: _column(value, self._size) for name, value in fields.items()}
        if fields.keys() != self._columns.keys():
            raise DataError(f"sample '{key}' has the fields {sorted(fields)}, others {sorted(self._columns)}.")
        for name, value in fields.items():
            column = self._columns[name]
            if isinstance(column, list):
                column.append(value)
                continue
            if isinstance(value, np.ndarray) and (value.shape != column.shape[1:] or value.dtype != column.dtype):
                raise DataError(
                    f"field '{name}' of sample '{key}' is {value.dtype} {value.shape}, "
                    f"of others {column.dtype} {column.shape[1:]}."
                )
            column[i] = value
        self._keys.append(key)
        self._rows[i], self._epochs[i] = draw.row, draw.epoch
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def batch(self) -> Batch:
        """The samples added so far."""
        n = self._count
        columns = {k: c if isinstance(c, list) else torch.from_numpy(c[:n]) for k, c in self._columns.items()}
        rows, epochs = torch.from_numpy(self._rows[:n]), torch.from_numpy(self._epochs[:n])
        return {**columns, "key": self._keys, "row": rows, "epoch": epochs}


def cut(batch: Batch, size: int) -> list[Batch]:
    """A batch in pieces of `size` samples; tensors are views."""
    total = len(batch["key"])
    return [{k: v[i : i + size] for k, v in batch.items()} for i in range(0, total, size)] if size < total else [batch]


def micro_size(share: int, wanted: int) -> int:
    """The largest micro-batch of at most `wanted` that cuts a share into equal pieces, so that their mean is exact."""
    return next(size for size in range(min(wanted, share), 0, -1) if share % size == 0)


def _column(value: Any, size: int) -> Any:
    """Room for `size` values like this one."""
    if isinstance(value, str):
        return []
    if isinstance(value, np.ndarray):
        return _room_like(value, size)
    return np.empty(size, np.float32 if isinstance(value, float | np.floating) else np.int64)


def _room_like(array: np.ndarray, size: int) -> np.ndarray:
    """(size, *shape) laid out in memory as `array` is.

    A (3, h, w) view of decoded (h, w, 3) pixels is then copied without shuffling bytes, and the batch is channels-last,
    which convolutions like best.
    """
    order = sorted(range(array.ndim), key=lambda axis: (-abs(array.strides[axis]), axis))
    room = np.empty((size, *(array.shape[axis] for axis in order)), array.dtype)
    return room.transpose(0, *(order.index(axis) + 1 for axis in range(array.ndim)))
