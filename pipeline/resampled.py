"""`data.mode: resampled`: webdataset's own pipeline, for endless mixtures where exactness does not matter.

Shards are drawn with replacement and samples go through a shuffle buffer. webdataset is handed open local files, so its
opener, which knows `pipe:`, never sees a name, and its decoders, which run what a `.pkl` member holds, are never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from pipeline.batch import FAULTS, Batch, BatchBuffer, Decode, Draw, Unreadable
from pipeline.errors import DataError
from pipeline.randomness import seed_of
from pipeline.samples import Sample
from pipeline.shard_files import checked_path
from pipeline.shard_index import Shard

MAX_UNREADABLE = 64
"""Unreadable samples in a row before reading is given up."""


@dataclass(frozen=True)
class ResampledPlan:
    """What a process needs to know to draw its share of global batches."""

    shards: list[Shard]
    decode: Decode
    share: int
    shuffle_buffer: int
    seed: int
    rank: int

    def read(self, start: int, stride: int) -> Iterator[tuple[Batch, list[Unreadable]]]:
        """Shares of global batches without end; every start draws a stream of its own."""
        samples = self._samples(seed_of(self.seed, "resampled", start, self.rank) % (1 << 31))
        step = start
        while True:
            buffer, unreadable = BatchBuffer(self.share), []
            while len(buffer) < self.share:
                shard, sample = next(samples)
                draw = Draw(self.seed, 0, step, self.rank * self.share + len(buffer))
                try:
                    fields = self.decode(sample, draw)
                except FAULTS:
                    raise
                except Exception as error:  # hostile bytes: decoders raise nearly any type
                    unreadable.append(Unreadable(shard, sample.key, f"{type(error).__name__}: {error}"[:200]))
                    if len(unreadable) > MAX_UNREADABLE + self.share:
                        raise DataError(f"{len(unreadable)} unreadable samples for one batch: {error}.") from error
                    continue
                buffer.add(fields, sample.key, draw)
            yield buffer.batch(), unreadable
            step += stride

    def _samples(self, seed: int) -> Iterator[tuple[str, Sample]]:
        import webdataset
        from webdataset.tariterators import group_by_keys, tar_file_expander

        by_number = {str(i): shard for i, shard in enumerate(self.shards) if shard.samples}
        pipeline = webdataset.DataPipeline(
            webdataset.ResampledShards(list(by_number), seed=seed, deterministic=True, worker_seed=_no_worker),
            lambda drawn: ({"url": item["url"], "stream": _open(by_number[item["url"]])} for item in drawn),
            tar_file_expander,
            group_by_keys,
            webdataset.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer // 2, seed=seed),
        )
        for found in pipeline:
            yield by_number[found["__url__"]].name, _sample(found)


def _no_worker() -> int:
    """Ranks and workers differ by `seed` already."""
    return 0


def _open(shard: Shard) -> BinaryIO:
    return checked_path(shard).open("rb")


def _sample(found: dict[str, Any]) -> Sample:
    return Sample(found["__key__"], {k: v for k, v in found.items() if not k.startswith("__")})
