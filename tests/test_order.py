"""The order of an epoch, against a plain list written out by hand and as properties over a grid."""

import itertools

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.order import EpochOrder

LANES = 12


def make_order(sizes: list[int], *, batch: int = 24, lanes: int = LANES, group: int = 2, seed: int = 0, epoch: int = 0):
    return EpochOrder(sizes, global_batch=batch, lanes=lanes, shuffle_shards=group, seed=seed, epoch=epoch)


def pairs(rows: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    return list(zip(rows[0].tolist(), rows[1].tolist(), strict=True))


def whole_epoch(order: EpochOrder) -> list[tuple[int, int]]:
    return [x for step in range(order.steps) for x in pairs(order.batch(step, range(order.lanes)))]


GRID = [
    ([300], 24, 12, 1),
    ([25], 24, 12, 4),
    ([24], 24, 12, 4),
    ([100, 1, 57], 24, 12, 1),
    ([40, 0, 3, 90, 17, 17, 60, 2], 12, 12, 3),
    ([7] * 40, 48, 48, 2),
    ([1] * 50, 10, 1, 100),
]


@pytest.mark.parametrize(("sizes", "batch", "lanes", "group"), GRID)
def test_an_epoch_holds_every_sample_once_less_those_that_sit_out(sizes, batch, lanes, group) -> None:
    everything = {(shard, row) for shard, size in enumerate(sizes) for row in range(size)}
    for seed, epoch in itertools.product(range(2), range(4)):
        order = make_order(sizes, batch=batch, lanes=lanes, group=group, seed=seed, epoch=epoch)
        seen, out = whole_epoch(order), pairs(order.sitting_out())
        assert len(out) == len(everything) % batch
        assert len(seen) == len(everything) - len(out) == order.steps * batch
        assert sorted(seen + out) == sorted(everything)


@pytest.mark.parametrize(("sizes", "batch", "lanes", "group"), GRID)
def test_lanes_are_the_circle_cut_into_runs_and_shuffled_only_inside_blocks_of_whole_segments(
    sizes, batch, lanes, group
) -> None:
    order = make_order(sizes, batch=batch, lanes=lanes, group=group, epoch=1)
    for lane in range(lanes):
        position = 0
        for block in range(order.num_blocks(lane)):
            segments = order.segments(lane, block)
            stored = [(s.shard, row) for s in segments for row in range(s.first, s.stop)]
            assert sorted(pairs(order.samples(lane, position, position + len(stored)))) == sorted(stored)
            assert {order.block_at(lane, position), order.block_at(lane, position + len(stored) - 1)} == {block}
            assert len(segments) == group or block == order.num_blocks(lane) - 1
            position += len(stored)
        assert position == order.run_length


def test_consecutive_lanes_continue_the_same_walk_over_whole_shards() -> None:
    sizes = [10, 30, 20, 44]
    order = make_order(sizes, batch=24, group=1, epoch=3)
    pieces = [s for lane in range(LANES) for b in range(order.num_blocks(lane)) for s in order.segments(lane, b)]
    walk = [(s.shard, row) for s in pieces for row in range(s.first, s.stop)] + pairs(order.sitting_out())
    jumps = [(a, b) for a, b in itertools.pairwise([*walk, walk[0]]) if b != (a[0], a[1] + 1)]
    assert len(jumps) == len(sizes)  # one at each shard's end: a circle through whole shards
    assert all(a[1] == sizes[a[0]] - 1 and b[1] == 0 for a, b in jumps)


def test_samples_are_looked_up_anywhere_without_reading_what_comes_before() -> None:
    sizes = [50, 20, 70]
    for lane in range(LANES):
        run = pairs(make_order(sizes).samples(lane, 0, 10))
        assert [pairs(make_order(sizes).samples(lane, i, i + 1))[0] for i in range(10)] == run
        backwards = make_order(sizes)
        assert [pairs(backwards.samples(lane, i, i + 1))[0] for i in reversed(range(10))] == run[::-1]


@pytest.mark.parametrize("sizes", [[100], [70, 70], [5] * 61])
def test_other_samples_sit_out_in_the_next_epoch_and_everyone_is_trained_on_equally(sizes) -> None:
    out = [set(pairs(make_order(sizes, epoch=epoch).sitting_out())) for epoch in range(400)]
    assert all(a and not a & b for a, b in itertools.pairwise(out))
    counts = [sum((shard, row) in x for x in out) for shard, size in enumerate(sizes) for row in range(size)]
    expected = 400 * len(out[0]) / sum(sizes)
    assert min(counts) > 0 and max(counts) < 3 * expected


def test_where_half_the_data_sits_out_the_order_still_comes() -> None:
    out = [set(pairs(make_order([47], epoch=epoch).sitting_out())) for epoch in range(20)]
    assert all(len(a & b) < 23 for a, b in itertools.pairwise(out))


def test_epochs_seeds_and_lanes_are_shuffled_differently() -> None:
    orders = [make_order([100, 90, 80], seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(whole_epoch(order)) for order in orders}) == 3
    assert whole_epoch(make_order([100, 90, 80])) == whole_epoch(make_order([100, 90, 80]))
    places = [make_order([1200], batch=12, group=1).samples(lane, 0, 100)[1] for lane in range(3)]
    ranks = {tuple(np.argsort(np.argsort(rows)).tolist()) for rows in places}
    assert len(ranks) == 3 and tuple(range(100)) not in ranks


def test_shuffling_is_close_to_uniform() -> None:
    firsts = np.zeros(6)
    for seed in range(600):
        firsts[make_order([6], batch=6, lanes=1, seed=seed).samples(0, 0, 1)[1][0]] += 1
    assert ((firsts - 100) ** 2 / 100).sum() < 25  # chi-square with 5 degrees of freedom, p = 1e-4


def test_the_order_is_the_one_older_checkpoints_were_made_with() -> None:
    assert whole_epoch(make_order([5, 6], batch=4, lanes=2, group=1, seed=3)) == [
        (0, 4), (1, 2), (1, 4), (1, 5),
        (1, 1), (1, 0), (1, 3), (0, 0),
    ]  # fmt: skip


def test_too_few_samples_are_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"holds 23 samples.*24.*\n.*data\.global_batch=12"):
        make_order([20, 3])
    with pytest.raises(ConfigError, match=r"holds 5 samples.*\n.*data\.lanes=5"):
        make_order([5])
    with pytest.raises(ConfigError, match="holds 0 samples"):
        make_order([])
