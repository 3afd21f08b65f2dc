"""`data.mode: exact`: reads the samples that `pipeline.order` names, each global batch the same for any process count.

One `ExactReader` lives in each process that reads: the training process, or a worker of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.batch import FAULTS, Batch, BatchBuffer, Decode, Draw, Fields, Unreadable
from pipeline.errors import DataError
from pipeline.order import EpochOrder
from pipeline.samples import Sample
from pipeline.shard_files import CutOffError, ShardFiles
from pipeline.shard_index import Shard

REACH = 64
"""How far along its lane the replacement of an unreadable sample is looked for."""
MAX_OPEN = 512
"""Shards open at once, well below the usual limit of 1,024 files."""


@dataclass(frozen=True)
class ExactPlan:
    """What a process needs to know to read its share of any global batch."""

    shards: list[Shard]
    decode: Decode
    global_batch: int
    lanes: int
    shuffle_shards: int
    seed: int
    mine: range
    """The lanes of this rank."""

    def order(self, epoch: int) -> EpochOrder:
        """The order of one epoch."""
        return EpochOrder(
            [shard.samples for shard in self.shards],
            global_batch=self.global_batch,
            lanes=self.lanes,
            shuffle_shards=self.shuffle_shards,
            seed=self.seed,
            epoch=epoch,
        )

    def read(self, start: int, stride: int) -> Iterator[tuple[Batch, list[Unreadable]]]:
        """This rank's share of the global batches start, start + stride, ... without end."""
        reader = ExactReader(self)
        for step in itertools.count(start, stride):
            yield reader.share(step)


class ExactReader:
    """Reads shares of global batches; keeps the shards of the lanes' current blocks open."""

    def __init__(self, plan: ExactPlan) -> None:
        self._plan = plan
        self._files = ShardFiles(plan.shards, min(MAX_OPEN, len(plan.mine) * (plan.shuffle_shards + 2)))
        self._order, self._epoch = plan.order(0), 0
        self._entered: dict[int, tuple[int, int]] = {}

    def share(self, step: int) -> tuple[Batch, list[Unreadable]]:
        """This rank's share of the global batch of a step, and the samples that could not be read.

        Raises:
            DataError: a shard is missing or cut off, or nothing near an unreadable sample is readable.
        """
        epoch, at = divmod(step, self._order.steps)
        if epoch != self._epoch:
            self._order, self._epoch = self._plan.order(epoch), epoch
        per_lane = self._order.per_lane
        buffer, unreadable = BatchBuffer(len(self._plan.mine) * per_lane), []
        self._enter_blocks(at * per_lane)
        for lane in self._plan.mine:
            shards, rows = self._order.samples(lane, at * per_lane, (at + 1) * per_lane)
            for j, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
                draw = Draw(self._plan.seed, epoch, step, lane * per_lane + j)
                try:
                    sample, fields = self._decoded(shard, row, draw)
                except UnreadableError as error:
                    unreadable.append(error.what)
                    sample, fields = self._nearest_good(lane, at * per_lane + j, draw, error.what)
                buffer.add(fields, sample.key, draw)
        return buffer.batch(), unreadable

    def _decoded(self, shard: int, row: int, draw: Draw) -> tuple[Sample, Fields]:
        return decoded(self._files, shard, row, draw, self._plan.decode)

    def _nearest_good(self, lane: int, position: int, draw: Draw, what: Unreadable) -> tuple[Sample, Fields]:
        """The readable sample nearest in the lane's order, the later one first."""
        for distance in range(1, REACH + 1):
            for other in (position + distance, position - distance):
                if 0 <= other < self._order.run_length:
                    shards, rows = self._order.samples(lane, other, other + 1)
                    try:
                        return self._decoded(int(shards[0]), int(rows[0]), draw)
                    except UnreadableError:
                        continue
        raise DataError(
            f"shard {what.shard}, key '{what.key}' is unreadable ({what.reason}), and so is every sample within "
            f"{REACH} of it.\nCheck the data:  tessera verify SHARDS"
        )

    def _enter_blocks(self, position: int) -> None:
        """On entering a block: fetch and read ahead its shards, and have the next block's fetched meanwhile."""
        order, now, later = self._order, [], []
        for lane in self._plan.mine:
            last = order.block_at(lane, position + order.per_lane - 1)
            for block in range(order.block_at(lane, position), last + 1):
                if (self._epoch, block) > self._entered.get(lane, (-1, -1)):
                    self._entered[lane] = (self._epoch, block)
                    now += order.segments(lane, block)
                    later += order.segments(lane, block + 1) if block + 1 < order.num_blocks(lane) else []
        for segment in now + later:
            self._files.want(segment.shard)
        for segment in now:
            self._files[segment.shard].read_ahead(segment.first, segment.stop)


class UnreadableError(Exception):
    """Inside the reader: this sample cannot be decoded."""

    def __init__(self, what: Unreadable) -> None:
        super().__init__(what.reason)
        self.what = what


def decoded(files: ShardFiles, shard: int, row: int, draw: Draw, decode: Decode) -> tuple[Sample, Fields]:
    """Read and decode one sample.

    Raises:
        UnreadableError: the bytes cannot be read or decoded. What is wrong with a whole shard or with the code
            (`FAULTS`) passes through.
    """
    opened = files[shard]
    try:
        sample = opened.read(row)
        return sample, decode(sample, draw)
    except (CutOffError, *FAULTS):
        raise
    except Exception as error:  # hostile bytes: decoders raise nearly any type
        reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        raise UnreadableError(Unreadable(opened.shard.name, opened.keys[row], reason[:200])) from error
