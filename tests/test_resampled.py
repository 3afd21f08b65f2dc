"""Mode `resampled` over real shards; and in both modes: nothing stored is executed."""

import itertools
import os
import pickle
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.samples import Sample, decode_member
from pipeline.shard_index import open_shards, write_dataset, write_shard
from pipeline.shards import Draw, open_batches
from pipeline.training_config import DataConfig
from tests.shard_data import decode, jpeg, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [40, 13, 31, 5, 44])


def test_resampled_draws_endless_batches_from_webdatasets_pipeline(shards) -> None:
    cfg = DataConfig(global_batch=24, lanes=12, mode="resampled", shuffle_buffer=50)
    keys = []
    for rank in range(2):
        batches = open_batches(shards, decode, cfg, seed=1, rank=rank, world=2)
        found = [micro[0] for micro in itertools.islice(batches, 12)]
        assert all(b["row"].tolist() == list(range(rank * 12, rank * 12 + 12)) for b in found)
        again = open_batches(shards, decode, cfg, seed=1, rank=rank, world=2)
        assert [micro[0]["key"] for micro in itertools.islice(again, 12)] == [b["key"] for b in found]
        again.seek(24 * 12)
        assert next(iter(again))[0]["key"] != found[0]["key"]
        keys.append([key for b in found for key in b["key"]])
    assert keys[0] != keys[1]
    assert len(set(keys[0])) > 60
    assert set(keys[0]) <= {f"{i:06d}" for i in range(133)}


@pytest.mark.parametrize("workers", [0, 1])
def test_resampled_replaces_unreadable_samples_and_refuses_cut_off_shards(tmp_path, workers) -> None:
    damaged = write_shards(tmp_path, [50], frozenset({1, 2, 3}))
    cfg = DataConfig(global_batch=24, lanes=12, mode="resampled", shuffle_buffer=10, workers=workers)
    batches = open_batches(damaged, decode, cfg, seed=1)
    assert {len(micro[0]["key"]) for micro in itertools.islice(batches, 6)} == {24}
    assert batches.unreadable >= 3
    os.truncate(damaged[0].path, 20480)
    with pytest.raises(DataError, match="its sidecar says"):
        list(itertools.islice(open_batches(damaged, decode, cfg, seed=1), 3))


class Trap:
    """Leaves a mark when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("mode", ["exact", "resampled"])
def test_nothing_stored_is_executed(tmp_path, mode) -> None:
    mark = tmp_path / "executed"
    trapped = [Sample(f"{i:06d}", {"jpg": jpeg(i), "pyd": pickle.dumps(Trap(mark))}) for i in range(24)]
    folder = tmp_path / "pipe:touch executed"
    folder.mkdir()
    write_dataset(folder, [write_shard(folder, "train-000000", "train", trapped)], {})
    shards = open_shards(folder).split("train")

    def everything(one: Sample, draw: Draw) -> dict:
        return {extension: decode_member(extension, payload) for extension, payload in one.members.items()}

    def picture(one: Sample, draw: Draw) -> dict:
        return {"image": decode_member("jpg", one.members["jpg"])}

    cfg = DataConfig(global_batch=24, lanes=12, mode=mode)
    assert len(next(iter(open_batches(shards, picture, cfg, seed=0)))[0]["key"]) == 24
    with pytest.raises(DataError, match=r"never executed|unreadable samples"):
        next(iter(open_batches(shards, everything, cfg, seed=0)))
    assert not mark.exists() and not Path("executed").exists()
