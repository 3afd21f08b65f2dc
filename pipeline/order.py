"""Which sample stands where in an epoch: a pure function of (shard sizes, seed, epoch), so a position is one integer.

The shards are permuted and laid end to end as a circle that starts at a random place inside the first of them. The
last N mod global_batch samples of the circle sit out, others in the next epoch; the rest is cut into `lanes` equal
runs. A lane goes through its run in blocks of `shuffle_shards` consecutive shard segments and shuffles inside a block.
Every global batch takes the same number of samples from every lane, so it is the same whatever number of processes
shares the lanes out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ConfigError
from pipeline.randomness import numpy_rng

Rows = tuple[np.ndarray, np.ndarray]
"""Shard numbers and rows inside those shards, two int64 arrays of one length."""

_ATTEMPTS = 32


@dataclass(frozen=True)
class Segment:
    """Rows first..stop-1 of a shard: a piece of a lane's run that is read from one file."""

    shard: int
    first: int
    stop: int


class EpochOrder:
    """The order of one epoch.

    Args:
        sizes: samples in each shard.
        global_batch: samples per step over all lanes; a multiple of `lanes`.
        lanes: equal runs the epoch is cut into.
        shuffle_shards: shard segments in one shuffling block of a lane.
        seed: of the run.
        epoch: 0, 1, ...

    Raises:
        ConfigError: there are fewer samples than one global batch takes.
    """

    def __init__(
        self, sizes: Sequence[int], *, global_batch: int, lanes: int, shuffle_shards: int, seed: int, epoch: int
    ) -> None:
        total = sum(sizes)
        check_enough(total, global_batch, lanes)
        assert global_batch % lanes == 0 and shuffle_shards > 0
        self.lanes, self.per_lane = lanes, global_batch // lanes
        self.steps = total // global_batch
        self.run_length = self.steps * self.per_lane
        self._total, self._seed, self._epoch, self._group = total, seed, epoch, shuffle_shards
        self._circle = _fair_circle(np.asarray(sizes, np.int64), total % global_batch, seed, epoch)
        self._starts = self._circle.starts
        self._edges = [self._edges_of(lane) for lane in range(lanes)]
        self._blocks: dict[int, dict[int, np.ndarray]] = {}

    def samples(self, lane: int, start: int, stop: int) -> Rows:
        """The samples at positions start..stop-1 of a lane's run."""
        assert 0 <= start <= stop <= self.run_length
        places = np.empty(stop - start, np.int64)
        edges = self._edges[lane]
        position = start
        while position < stop:
            block = int(np.searchsorted(edges, position, side="right")) - 1
            end = min(stop, int(edges[block + 1]))
            shuffled = self._shuffled(lane, block, edges)
            places[position - start : end - start] = shuffled[position - edges[block] : end - edges[block]]
            position = end
        return self._circle.at(places)

    def batch(self, step: int, lanes: range) -> Rows:
        """The samples that `lanes` give to the global batch of this step, lane after lane."""
        start = step * self.per_lane
        parts = [self.samples(lane, start, start + self.per_lane) for lane in lanes]
        return np.concatenate([shards for shards, _ in parts]), np.concatenate([rows for _, rows in parts])

    def sitting_out(self) -> Rows:
        """The samples no batch of this epoch takes: fewer than one global batch."""
        return self._circle.at(np.arange(self.lanes * self.run_length, self._total))

    def num_blocks(self, lane: int) -> int:
        """Shuffling blocks in a lane's run."""
        return len(self._edges[lane]) - 1

    def block_at(self, lane: int, position: int) -> int:
        """The shuffling block that position lies in."""
        return int(np.searchsorted(self._edges[lane], position, side="right")) - 1

    def segments(self, lane: int, block: int) -> list[Segment]:
        """The shard segments a block draws from, in stored order."""
        edges = self._edges[lane] + lane * self.run_length
        begin, end = int(edges[block]), int(edges[block + 1])
        found = []
        for i in range(int(np.searchsorted(self._starts, begin, side="right")) - 1, len(self._circle.shards)):
            low, high = max(begin, int(self._starts[i])), min(end, int(self._starts[i + 1]))
            if low >= high:
                break
            shift = int(self._circle.firsts[i] - self._starts[i])
            found.append(Segment(int(self._circle.shards[i]), low + shift, high + shift))
        return found

    def _edges_of(self, lane: int) -> np.ndarray:
        """Positions in the lane's run where its blocks begin, and its length."""
        begin, end = lane * self.run_length, (lane + 1) * self.run_length
        first = int(np.searchsorted(self._starts, begin, side="right"))
        last = int(np.searchsorted(self._starts, end, side="left"))
        cuts = np.concatenate([[begin], self._starts[first:last], [end]]) - begin
        return np.append(cuts[: -1 : self._group], cuts[-1])

    def _shuffled(self, lane: int, block: int, edges: np.ndarray) -> np.ndarray:
        """Places on the circle of one block's samples, shuffled; the last two blocks of each lane are kept."""
        kept = self._blocks.setdefault(lane, {})
        if block not in kept:
            begin, end = int(edges[block]), int(edges[block + 1])
            order = _permutation(end - begin, self._seed, self._epoch, lane, block)
            kept[block] = order + (begin + lane * self.run_length)
            for old in list(kept)[:-2]:
                del kept[old]
        return kept[block]


def check_enough(total: int, global_batch: int, lanes: int) -> None:
    """Refuse a data set that does not fill one global batch.

    Raises:
        ConfigError: with the largest global batch that would do.
    """
    if total >= global_batch:
        return
    largest = total // lanes * lanes
    advice = (
        f"data.global_batch={largest}" if largest else f"data.lanes={max(1, total)} and a data.global_batch to match"
    )
    raise ConfigError(
        f"the data holds {total} samples, fewer than one global batch of {global_batch} (data.global_batch).\n"
        f"Set it for this stage and those after it:  STAGE.{advice}  (a multiple of lanes, at most {total})."
    )


def check_world(lanes: int, world: int) -> None:
    """Refuse a number of processes that does not divide the lanes.

    Raises:
        ConfigError: with the nearest counts that do.
    """
    if lanes % world == 0:
        return
    divisors = [n for n in range(1, lanes + 1) if lanes % n == 0]
    below, above = max(n for n in divisors if n < world), min((n for n in divisors if n > world), default=None)
    nearest = f"{below} or {above}" if above else str(below)
    raise ConfigError(
        f"{world} processes do not divide data.lanes={lanes}.\nStart {nearest} processes, or write a data.lanes that "
        f"{world} divides (it changes the order of the data)."
    )


@dataclass(frozen=True)
class _Circle:
    """The permuted shards end to end: shard and first row of each segment, and where each begins (and the end)."""

    shards: np.ndarray
    firsts: np.ndarray
    starts: np.ndarray

    def at(self, places: np.ndarray) -> Rows:
        """Shard and row at these places."""
        i = np.searchsorted(self.starts, places, side="right") - 1
        return self.shards[i], self.firsts[i] + places - self.starts[i]

    def tail(self, count: int) -> set[tuple[int, int]]:
        """The last samples."""
        shards, rows = self.at(np.arange(self.starts[-1] - count, self.starts[-1]))
        return set(zip(shards.tolist(), rows.tolist(), strict=True))


def _fair_circle(sizes: np.ndarray, left_over: int, seed: int, epoch: int) -> _Circle:
    """A circle whose last `left_over` samples do not sit out in the epochs before and after too.

    Even epochs take their first draw, odd ones the first of a few that keeps clear of both neighbours, or the one that
    comes closest: so no epoch needs to know more than its neighbours.
    """
    if epoch % 2 == 0 or left_over == 0:
        return _draw_circle(sizes, seed, epoch, 0)
    neighbours = [_draw_circle(sizes, seed, other, 0).tail(left_over) for other in (epoch - 1, epoch + 1)]
    best, fewest = None, left_over + 1
    for attempt in range(_ATTEMPTS):
        circle = _draw_circle(sizes, seed, epoch, attempt)
        shared = len(circle.tail(left_over) & (neighbours[0] | neighbours[1]))
        if shared < fewest:
            best, fewest = circle, shared
        if shared == 0:
            break
    assert best is not None
    return best


def _draw_circle(sizes: np.ndarray, seed: int, epoch: int, attempt: int) -> _Circle:
    filled = np.flatnonzero(sizes)
    shards = filled[_permutation(len(filled), seed, epoch, attempt)]
    counts = sizes[shards]
    offset = int(_bits(1, "start", seed, epoch, attempt)[0] % np.uint64(counts[0]))
    shards = np.append(shards, shards[0])
    firsts = np.zeros(len(shards), np.int64)
    firsts[0] = offset
    counts = np.append(counts, offset)
    counts[0] -= offset
    keep = counts > 0  # an offset of 0 leaves nothing for the end of the circle
    return _Circle(shards[keep], firsts[keep], np.concatenate([[0], np.cumsum(counts[keep])]))


def _permutation(n: int, *parts: int) -> np.ndarray:
    """A permutation from raw bits: NumPy promises those for ever, but not the stream of `Generator.permutation`."""
    return np.argsort(_bits(n, "order", *parts), kind="stable")


def _bits(n: int, *parts: int | str) -> np.ndarray:
    bits: np.ndarray = numpy_rng(*parts).bit_generator.random_raw(n)
    return bits
