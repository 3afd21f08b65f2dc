"""Open shards, read by sample: the kernel is told to read a stretch ahead, then samples are picked by offset.

Memory stays bounded: payloads live in the page cache, indexes as small arrays, and only the shards used last stay open.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.remote import Prefetch, local_path
from pipeline.samples import Sample
from pipeline.shard_index import Shard, is_remote


class OpenShard:
    """One shard and the offsets of its samples.

    Raises:
        DataError: the file is missing, or shorter or longer than its sidecar says.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard, path = shard, checked_path(shard)
        index = shard.index()
        self.keys = index.keys
        self._extensions = list(dict.fromkeys(e for members in index.members for e in members))
        absent = (0, -1)
        places = [[members.get(e, absent) for e in self._extensions] for members in index.members]
        self._places = np.array(places, np.int64).reshape(len(self.keys), len(self._extensions), 2)
        present = self._places[..., 1] >= 0
        self._begins = np.where(present, self._places[..., 0], np.iinfo(np.int64).max).min(1, initial=shard.bytes)
        self._ends = np.where(present, self._places.sum(-1), 0).max(1, initial=0)
        if len(self._ends) and (self._begins.min() < 0 or self._ends.max() > shard.bytes):
            raise DataError(
                f"the sidecar of {path} points outside the shard.\nFind out more:  tessera verify {path.parent}"
            )
        self._file = path.open("rb", buffering=0)

    def read_ahead(self, first: int, stop: int) -> None:
        """Tell the kernel that rows first..stop-1 are wanted, in one sequential sweep."""
        if hasattr(os, "posix_fadvise") and first < stop:
            begin, end = int(self._begins[first]), int(self._ends[stop - 1])
            os.posix_fadvise(self._file.fileno(), begin, max(0, end - begin), os.POSIX_FADV_WILLNEED)

    def read(self, row: int) -> Sample:
        """One sample, in one read.

        Raises:
            DataError: the file ends before the sample does.
            OSError: the disk fails.
        """
        begin, end = int(self._begins[row]), int(self._ends[row])
        span = os.pread(self._file.fileno(), max(0, end - begin), begin)
        if len(span) < end - begin:
            raise CutOffError(f"shard {self.shard.name}: cut off inside sample '{self.keys[row]}'.")
        places = self._places[row].tolist()
        members = {
            extension: span[at - begin : at - begin + size]
            for extension, (at, size) in zip(self._extensions, places, strict=True)
            if size >= 0
        }
        return Sample(self.keys[row], members)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class CutOffError(DataError):
    """A shard that lost its end while it was read: never a matter of one sample."""


class ShardFiles:
    """The shards of a data set, opened when needed; the `keep_open` used last stay open."""

    def __init__(self, shards: list[Shard], keep_open: int) -> None:
        self.shards = shards
        self._keep_open = max(1, keep_open)
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._prefetch = Prefetch()

    def __getitem__(self, number: int) -> OpenShard:
        if number not in self._open:
            while len(self._open) >= self._keep_open:
                self._open.popitem(last=False)[1].close()
            self._open[number] = OpenShard(self.shards[number])
        self._open.move_to_end(number)
        return self._open[number]

    def want(self, number: int) -> None:
        """This shard is read soon: a remote one is fetched in the background."""
        self._prefetch.want(self.shards[number])


def read_samples(shard: Shard) -> Iterator[Sample]:
    """Every sample of a shard in stored order, read sequentially.

    Raises:
        DataError: the shard is missing, or shorter than its sidecar says.
    """
    opened = OpenShard(shard)
    try:
        opened.read_ahead(0, len(opened.keys))
        for row in range(len(opened.keys)):
            yield opened.read(row)
    finally:
        opened.close()


def checked_path(shard: Shard) -> Path:
    """Where the whole shard lies on this machine; its size is checked.

    Raises:
        DataError: missing, or shorter or longer than its sidecar says.
    """
    path = local_path(shard)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"shard {path} cannot be read ({error.strerror}).") from error
    if size != shard.bytes:
        raise DataError(
            f"shard {path} has {size:,} bytes; its sidecar says {shard.bytes:,}: cut off or replaced.\n"
            f"Find every such shard:  tessera verify {path.parent}"
        )
    return path


def any_remote(shards: list[Shard]) -> bool:
    """Whether some shard has to be fetched."""
    return any(is_remote(shard.path) for shard in shards)
