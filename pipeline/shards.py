"""Shards to batches: the same global batches for any number of processes and workers, resumable at any of them.

`open_batches` is what training reads, without end; `read_pass` is what evaluation reads, once; `read_samples` gives the
stored bytes. Images stay uint8 and are normalised on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from pipeline.batch import Batch, BatchBuffer, Decode, Draw, Unreadable, cut, micro_size
from pipeline.errors import ConfigError, TesseraError
from pipeline.exact import ExactPlan, UnreadableError, decoded
from pipeline.order import check_enough, check_world
from pipeline.resampled import ResampledPlan
from pipeline.shard_files import ShardFiles, any_remote, read_samples
from pipeline.shard_index import Shard
from pipeline.training_config import DataConfig
from pipeline.workers import read_with_workers

__all__ = ["Batch", "Batches", "Decode", "Draw", "open_batches", "read_pass", "read_samples"]
log = logging.getLogger(__name__)


class Plan(Protocol):
    """What to read, in either mode; travels to the workers."""

    @property
    def shards(self) -> list[Shard]: ...

    def read(self, start: int, stride: int) -> Iterator[tuple[Batch, list[Unreadable]]]: ...


def open_batches(
    shards: list[Shard], decode: Decode, cfg: DataConfig, *, seed: int, rank: int = 0, world: int = 1
) -> Batches:
    """Open one split for training.

    Args:
        shards: from `open_shards(root).split(name)`.
        decode: sample and draw -> fields. Raising means: unreadable, take the nearest good sample of the lane.
        cfg: global batch, lanes, mode, workers.
        seed: of the run.
        rank, world: this process and how many there are.

    Raises:
        ConfigError: too few samples for one global batch, or a number of processes that does not divide the lanes.
    """
    assert 0 <= rank < world
    check_world(cfg.lanes, world)
    check_enough(sum(shard.samples for shard in shards), cfg.global_batch, cfg.lanes)
    own = cfg.lanes // world
    if cfg.mode == "resampled":
        resampled = ResampledPlan(shards, decode, cfg.global_batch // world, cfg.shuffle_buffer, seed, rank)
        return Batches(resampled, cfg, share=cfg.global_batch // world)
    mine = range(rank * own, (rank + 1) * own)
    exact = ExactPlan(shards, decode, cfg.global_batch, cfg.lanes, cfg.shuffle_shards, seed, mine)
    return Batches(exact, cfg, share=cfg.global_batch // world)


class Batches:
    """Global batches without end, this process's share of each, cut into micro-batches."""

    def __init__(self, plan: Plan, cfg: DataConfig, *, share: int) -> None:
        total = sum(shard.samples for shard in plan.shards)
        self.samples_per_epoch = total // cfg.global_batch * cfg.global_batch
        self.samples_seen = 0
        self.unreadable = 0
        """Samples replaced so far by this process because they could not be read."""
        self._plan, self._cfg, self._share = plan, cfg, share
        self.micro_batch = share if cfg.micro_batch == "auto" else micro_size(share, int(cfg.micro_batch))
        self._reported: set[tuple[str, str]] = set()

    def seek(self, samples_seen: int) -> None:
        """Go on as if this many samples (of all processes together) had been read: a multiple of the global batch."""
        if samples_seen < 0 or samples_seen % self._cfg.global_batch:
            raise ConfigError(
                f"a position of {samples_seen} samples is no multiple of data.global_batch={self._cfg.global_batch}: "
                "the checkpoint was made with another one.\nPut the old data.global_batch back, or --redo the stage."
            )
        self.samples_seen = samples_seen

    def __iter__(self) -> Iterator[list[Batch]]:
        start, patient = self.samples_seen // self._cfg.global_batch, any_remote(self._plan.shards)
        for batch, unreadable in read_with_workers(self._plan.read, start, self._cfg.workers, patient=patient):
            self._log_sitting_out()
            self.samples_seen += self._cfg.global_batch
            self._report(unreadable)
            yield cut(batch, self.micro_batch)

    def sitting_out(self, epoch: int) -> list[str]:
        """Keys of the samples no batch of this epoch takes; none in mode `resampled`."""
        if not isinstance(self._plan, ExactPlan):
            return []
        shards, rows = self._plan.order(epoch).sitting_out()
        pairs = zip(shards.tolist(), rows.tolist(), strict=True)
        return [self._plan.shards[shard].index().keys[row] for shard, row in pairs]

    def halve_micro_batch(self) -> int:
        """Memory ran out: from the next batch on, micro-batches of at most half the size. Returns it.

        Raises:
            TesseraError: it is 1 already.
        """
        if self.micro_batch == 1:
            raise TesseraError("memory ran out with micro-batches of one sample.\nTake a smaller model or image size.")
        self.micro_batch = micro_size(self._share, self.micro_batch // 2)
        return self.micro_batch

    def _log_sitting_out(self) -> None:
        epoch, seen = divmod(self.samples_seen, self.samples_per_epoch)
        if seen == 0 and isinstance(self._plan, ExactPlan) and self._plan.mine.start == 0:
            log.info("epoch %d: sitting out: %s", epoch, " ".join(self.sitting_out(epoch)) or "none")

    def _report(self, unreadable: list[Unreadable]) -> None:
        self.unreadable += len(unreadable)
        for what in unreadable:
            if (what.shard, what.key) not in self._reported:
                self._reported.add((what.shard, what.key))
                _warn(what, "its nearest good neighbour takes its place")


def read_pass(
    shards: list[Shard], decode: Decode, *, batch_size: int, rank: int = 0, world: int = 1, limit: int | None = None
) -> Iterator[Batch]:
    """Every sample once, in stored order; batch i belongs to rank i mod world, the last one may be smaller.

    Draws have epoch 0, step 0 and row = the sample's number in the split. An unreadable sample is left out, with a
    warning. `limit` stops after so many samples.
    """
    files = ShardFiles(shards, keep_open=2)
    places = ((shard, row) for shard, one in enumerate(shards) for row in range(one.samples))
    numbered = enumerate(islice(places, limit))
    for i, chunk in enumerate(iter(lambda: list(islice(numbered, batch_size)), [])):
        if i % world != rank:
            continue
        buffer = BatchBuffer(len(chunk))
        for number, (shard, row) in chunk:
            draw = Draw(0, 0, 0, number)
            try:
                sample, fields = decoded(files, shard, row, draw, decode)
            except UnreadableError as error:
                _warn(error.what, "left out")
                continue
            buffer.add(fields, sample.key, draw)
        if len(buffer):
            yield buffer.batch()


def _warn(what: Unreadable, then: str) -> None:
    log.warning("unreadable sample '%s' in shard %s: %s (%s)", what.key, what.shard, what.reason, then)
