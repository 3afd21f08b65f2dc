"""The reader over real shards: the same batches for any processes and workers, exact resume, damage reported."""

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, DataError, TesseraError
from pipeline.samples import Sample
from pipeline.shards import Batch, Draw, open_batches, read_pass, read_samples
from pipeline.training_config import DataConfig
from tests.shard_data import SIDE, decode, sample, write_shards

CFG = {"global_batch": 24, "lanes": 12, "shuffle_shards": 2}


def take(shards, steps: int, *, world: int = 1, workers: int = 0, start: int = 0, cfg=None) -> list[list[Batch]]:
    """`steps` global batches from `start` on: for each the batches of all ranks."""
    ranks = []
    for rank in range(world):
        settings = DataConfig(**(cfg or CFG), workers=workers)
        batches = open_batches(shards, decode, settings, seed=5, rank=rank, world=world)
        batches.seek(start * settings.global_batch)
        ranks.append([b for micro in itertools.islice(batches, steps) for b in micro])
    return list(zip(*ranks, strict=True))


def content(batches: list[Batch]) -> tuple:
    """Everything a global batch says, rank after rank."""
    keys = [key for b in batches for key in b["key"]]
    names = [name for b in batches for name in b["name"]]
    numbers = [torch.cat([b[k] for b in batches]).tolist() for k in ("row", "epoch", "cls", "share")]
    return keys, names, numbers, torch.cat([b["image"] for b in batches]).contiguous().numpy().tobytes()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [40, 13, 31, 5, 44])  # 133 = 5 x 24 + 13


@pytest.fixture(scope="module")
def alone(shards):
    return [content(batches) for batches in take(shards, 12)]


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (3, 0), (4, 0), (12, 0), (1, 1), (1, 2), (2, 2), (3, 1)])
def test_global_batches_are_the_same_for_any_processes_and_workers(shards, alone, world, workers) -> None:
    assert [content(batches) for batches in take(shards, 12, world=world, workers=workers)] == alone


def test_rows_are_counted_through_the_ranks_and_epochs_through_the_batches(alone) -> None:
    assert all(numbers[0] == list(range(24)) for _, _, numbers, _ in alone)
    assert [numbers[1] for _, _, numbers, _ in alone] == [[step // 5] * 24 for step in range(12)]


def test_a_batch_holds_what_the_stored_samples_say(shards) -> None:
    stored = {one.key: one for shard in shards for one in read_samples(shard)}
    batch = take(shards, 1)[0][0]
    assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (24, 3, SIDE, SIDE)
    assert batch["cls"].dtype == torch.int64 and batch["share"].dtype == torch.float32
    for i, key in enumerate(batch["key"]):
        fields = decode(stored[key], Draw(5, 0, 0, i))
        assert np.array_equal(batch["image"][i].numpy(), fields["image"])
        assert batch["cls"][i] == fields["cls"] and batch["name"][i] == fields["name"]


@pytest.mark.parametrize("sizes", [[60], [30, 1, 29], [9, 20, 3, 14, 14, 7, 30, 11]])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_sample_at_most_once_an_epoch_and_a_stop_anywhere_changes_nothing(
    tmp_path, sizes, world, workers
) -> None:
    shards = write_shards(tmp_path, sizes)
    keys = [f"{i:06d}" for i in range(sum(sizes))]
    steps = sum(sizes) // 24
    undisturbed = [content(batches) for batches in take(shards, 2 * steps, world=world)]
    for epoch in range(2):
        seen = Counter(key for found in undisturbed[epoch * steps : (epoch + 1) * steps] for key in found[0])
        out = open_batches(shards, decode, DataConfig(**CFG), seed=5, rank=0, world=1).sitting_out(epoch)
        assert seen + Counter(out) == Counter(keys)
        assert len(out) == sum(sizes) % 24
    rng = np.random.default_rng(len(sizes) * 100 + world * 10 + workers)
    for start in rng.integers(0, 2 * steps, 1 if workers else 5).tolist():
        resumed = take(shards, 2 * steps - start, world=world, workers=workers, start=start)
        assert [content(batches) for batches in resumed] == undisturbed[start:]


def test_micro_batches_are_equal_pieces_of_the_share(shards) -> None:
    cfg = DataConfig(**CFG, micro_batch="9")
    batches = open_batches(shards, decode, cfg, seed=5, rank=1, world=2)
    reading = iter(batches)
    whole = take(shards, 3, world=2)
    sizes = []
    for step, micro in enumerate(itertools.islice(reading, 3)):
        sizes.append([len(b["key"]) for b in micro])
        assert [key for b in micro for key in b["key"]] == whole[step][1]["key"]
        assert torch.equal(torch.cat([b["image"] for b in micro]), whole[step][1]["image"])
        if step < 2:
            batches.halve_micro_batch()
    assert sizes == [[6, 6], [3, 3, 3, 3], [1] * 12]
    with pytest.raises(TesseraError, match="one sample"):
        batches.halve_micro_batch()
    assert batches.samples_seen == 72 and batches.samples_per_epoch == 120


def test_pixels_are_copied_once_and_stay_channels_last(shards) -> None:
    image = take(shards, 1)[0][0]["image"]
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_impossible_grids_are_refused_with_what_to_write(shards) -> None:
    with pytest.raises(ConfigError, match=r"5 processes.*lanes=12.*\n.*4 or 6 processes"):
        open_batches(shards, decode, DataConfig(**CFG), seed=0, rank=0, world=5)
    with pytest.raises(ConfigError, match=r"holds 133 samples.*\n.*data.global_batch=132"):
        open_batches(shards, decode, DataConfig(global_batch=240), seed=0, rank=0, world=1)
    with pytest.raises(ConfigError, match=r"36 samples.*global_batch=24"):
        open_batches(shards, decode, DataConfig(**CFG), seed=0, rank=0, world=1).seek(36)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_sample_is_replaced_by_its_lanes_nearest_good_one_counted_and_reported_once(
    tmp_path, shards, alone, workers, caplog
) -> None:
    broken = frozenset({3, 4, 77, 130})
    damaged = write_shards(tmp_path, [40, 13, 31, 5, 44], broken)
    names = {f"{number:06d}" for number in broken}
    batches = open_batches(damaged, decode, DataConfig(**CFG, workers=workers), seed=5, rank=0, world=1)
    with caplog.at_level(logging.WARNING):
        found = [content(micro) for micro in itertools.islice(batches, 10)]
    runs = [[], []]  # per epoch, the keys of each lane in order
    for epoch in range(2):
        steps = alone[epoch * 5 : epoch * 5 + 5]
        runs[epoch] = [[key for s in steps for key in s[0][lane * 2 : lane * 2 + 2]] for lane in range(12)]
    replaced = 0
    for step, (now, before) in enumerate(zip(found, alone, strict=False)):
        for row, (new, old) in enumerate(zip(now[0], before[0], strict=True)):
            run, at = runs[step // 5][row // 2], step % 5 * 2 + row % 2
            good = [i for i in range(len(run)) if run[i] not in names]
            nearest = min(good, key=lambda i, at=at: (abs(i - at), i < at))
            assert new == run[nearest]
            replaced += old in names
    assert replaced > 0 and batches.unreadable == replaced
    reports = [r.getMessage() for r in caplog.records if "unreadable" in r.getMessage()]
    assert len(reports) == len({old for s in alone[:10] for old in s[0]} & names)
    assert any("'000003' in shard train-000000" in r and "known format" in r for r in reports)


def test_replacements_are_the_same_for_any_processes_and_workers(tmp_path) -> None:
    damaged = write_shards(tmp_path, [70, 30], frozenset(range(0, 100, 7)))
    alone = [content(batches) for batches in take(damaged, 5)]
    for world, workers in ((3, 0), (2, 1)):
        assert [content(b) for b in take(damaged, 5, world=world, workers=workers)] == alone


def failing(error: BaseException):
    def decode_or_fail(one: Sample, draw: Draw) -> dict:
        raise error

    return decode_or_fail


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_without_one_good_sample_ends_with_an_error(shards, workers) -> None:
    batches = open_batches(shards, failing(ValueError("odd")), DataConfig(**CFG, workers=workers), seed=0)
    with pytest.raises(DataError, match=r"train-\d{6}, key '\d{6}' is unreadable \(ValueError: odd\), and so is every"):
        next(iter(batches))


@pytest.mark.parametrize("error", [MemoryError(), ConfigError("no class"), NameError("typo"), KeyboardInterrupt()])
def test_what_speaks_of_the_machine_or_the_code_is_never_taken_for_a_bad_sample(shards, error) -> None:
    with pytest.raises(type(error)):
        next(iter(open_batches(shards, failing(error), DataConfig(**CFG), seed=0)))
    with pytest.raises(type(error)):
        next(read_pass(shards, failing(error), batch_size=4))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_shorter_than_its_sidecar_is_an_error_not_a_smaller_data_set(tmp_path, workers) -> None:
    shards = write_shards(tmp_path, [40, 40])
    tar = Path(shards[1].path)
    os.truncate(tar, tar.stat().st_size - 10240)
    with pytest.raises(DataError, match=r"train-000001\.tar has .* its sidecar says"):
        list(itertools.islice(open_batches(shards, decode, DataConfig(**CFG, workers=workers), seed=0), 3))
    with pytest.raises(DataError, match="its sidecar says"):
        list(read_samples(shards[1]))
    tar.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar cannot be read"):
        list(read_pass(shards, decode, batch_size=40))


def test_a_shard_cut_off_while_it_is_read_is_an_error(tmp_path) -> None:
    shards = write_shards(tmp_path, [48])
    reading = iter(open_batches(shards, decode, DataConfig(**CFG), seed=0))
    next(reading)
    os.truncate(shards[0].path, 5000)
    with pytest.raises(DataError, match="cut off inside sample"):
        next(reading)


def test_fields_that_do_not_stack_name_the_sample(shards) -> None:
    def uneven(one: Sample, draw: Draw) -> dict:
        return {"image": np.zeros((1 + int(one.key) % 2,), np.uint8)}

    with pytest.raises(DataError, match=r"field 'image' of sample '\d+' is uint8"):
        next(iter(open_batches(shards, uneven, DataConfig(**CFG), seed=0)))


def test_a_pass_reads_every_sample_once_in_stored_order_and_deals_batches_to_ranks(shards) -> None:
    def numbered(one: Sample, draw: Draw) -> dict:
        return {"number": draw.row, "key_number": int(one.key)}

    alone = list(read_pass(shards, numbered, batch_size=25))
    assert [len(b["key"]) for b in alone] == [25, 25, 25, 25, 25, 8]
    assert [n for b in alone for n in b["number"].tolist()] == list(range(133))
    assert all(torch.equal(b["number"], b["key_number"]) and torch.equal(b["number"], b["row"]) for b in alone)
    for rank in range(4):
        own = list(read_pass(shards, numbered, batch_size=25, rank=rank, world=4))
        assert [b["key"] for b in own] == [b["key"] for b in alone[rank::4]]
    limited = list(read_pass(shards, numbered, batch_size=25, limit=30))
    assert [n for b in limited for n in b["number"].tolist()] == list(range(30))


def test_a_pass_leaves_unreadable_samples_out_and_says_so(tmp_path, caplog) -> None:
    damaged = write_shards(tmp_path, [10, 10], frozenset({4, 10, 11}))
    keys = [key for b in read_pass(damaged, decode, batch_size=2) for key in b["key"]]
    assert keys == [f"{i:06d}" for i in range(20) if i not in (4, 10, 11)]
    assert sum("left out" in r.getMessage() for r in caplog.records) == 3


def test_stored_bytes_come_back_in_order(shards) -> None:
    expected = [sample(number) for number in range(133)]
    assert [one for shard in shards for one in read_samples(shard)] == expected


def test_who_sits_out_is_logged_by_key(shards, caplog) -> None:
    with caplog.at_level(logging.INFO):
        batches = open_batches(shards, decode, DataConfig(**CFG), seed=5)
        list(itertools.islice(batches, 6))
    lines = [r.getMessage() for r in caplog.records if "sitting out" in r.getMessage()]
    assert lines == [f"epoch {e}: sitting out: {' '.join(batches.sitting_out(e))}" for e in range(2)]


def test_reading_draws_nothing_from_torchs_own_generator(shards) -> None:
    state = torch.get_rng_state()
    take(shards, 1, workers=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_few_files_stay_open_and_batches_are_the_same(shards, alone, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.exact.MAX_OPEN", 1)
    assert [content(batches) for batches in take(shards, 6)] == alone[:6]


def test_workers_outlive_a_stop_request_and_end_with_their_parent(tmp_path) -> None:
    write_shards(tmp_path / "data", [48])
    script = f"""
import itertools, os, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pipeline.shard_index import open_shards
from tests.test_reader import CFG, DataConfig, decode, open_batches
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
reading = iter(open_batches(open_shards({str(tmp_path / "data")!r}).split("train"), decode,
               DataConfig(**CFG, workers=2), seed=0))
next(reading)
print("ready", flush=True)
while not stopped:
    time.sleep(0.01)
for _ in range(20):
    next(reading)
print("went on", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "went on\n"
    assert process.returncode == 0 and time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
