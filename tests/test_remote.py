"""Shards over http from a real server: fetched once, resumed by offset, damage refused, exact after a SIGKILL."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import remote
from pipeline.errors import ConfigError, DataError
from pipeline.shard_index import open_shards
from pipeline.shards import open_batches, read_pass, read_samples
from pipeline.training_config import DataConfig
from tests.file_server import FileServer
from tests.shard_data import decode, write_shards

CFG = {"global_batch": 24, "lanes": 12, "shuffle_shards": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(remote, "_pause", lambda attempt: 0.01)
    return tmp_path / "cache" / "shards"


@pytest.fixture
def server(tmp_path):
    write_shards(tmp_path / "data", [30, 20, 34], pad=2000)
    with FileServer(tmp_path / "data") as running:
        yield running


def pass_bytes(server: FileServer) -> int:
    return sum(path.stat().st_size for path in server.folder.iterdir())


def first_keys(shards, workers: int = 0, steps: int = 4) -> list[list[str]]:
    batches = open_batches(shards, decode, DataConfig(**CFG, workers=workers), seed=0)
    return [micro[0]["key"] for micro in itertools.islice(batches, steps)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_over_http_are_those_of_the_disk_and_every_byte_comes_once(server, workers) -> None:
    local, distant = open_shards(server.folder), open_shards(server.url + "/")
    assert distant.fingerprint == local.fingerprint
    expected = first_keys(local.split("train"))
    assert first_keys(distant.split("train"), workers) == expected
    assert first_keys(open_shards(server.url).split("train"), workers) == expected
    assert server.total(".tar") == sum(shard.bytes for shard in local.split("train"))
    for shard, again in zip(local.split("train"), distant.split("train"), strict=True):
        assert list(read_samples(shard)) == list(read_samples(again))


def test_a_broken_connection_goes_on_where_it_ended(server) -> None:
    server.break_after = 30_000
    shards = open_shards(server.url).split("train")
    assert sum(len(b["key"]) for b in read_pass(shards, decode, batch_size=10)) == 84
    assert server.total(".tar") == sum(shard.bytes for shard in shards)
    assert ("train-000001.tar", "bytes=30000-") in server.requests


def test_a_server_without_ranges_starts_over(server, cache) -> None:
    shard = open_shards(server.url).split("train")[0]
    whole = (server.folder / "train-000000.tar").read_bytes()
    cache.mkdir(parents=True)
    (cache / f"{shard.sha256}.part").write_bytes(whole[:20_000])
    server.ranges = False
    assert remote.local_path(shard).read_bytes() == whole


@pytest.mark.parametrize("left", [b"other bytes" * 1000, b"x" * 10**6])
def test_a_left_over_of_another_file_is_noticed_and_fetched_afresh(server, cache, left) -> None:
    shard = open_shards(server.url).split("train")[0]
    cache.mkdir(parents=True)
    (cache / f"{shard.sha256}.part").write_bytes(left)
    assert remote.local_path(shard).read_bytes() == (server.folder / "train-000000.tar").read_bytes()
    assert [path.suffix for path in sorted(cache.iterdir())] == [".lock", ".tar"]


def test_a_file_shorter_or_other_than_its_sidecar_is_an_error(server, cache) -> None:
    shards = open_shards(server.url).split("train")
    tar = server.folder / "train-000001.tar"
    whole = tar.read_bytes()
    for payload, message in (
        (whole[:-10240], r"train-000001.tar holds [\d,]+ bytes, shorter than"),
        (whole + bytes(512), "longer than"),
        (whole[:-20000] + b"!" + whole[-19999:], "another sha256"),
        (whole[:100], "shorter than"),
    ):
        tar.write_bytes(payload)
        with pytest.raises(DataError, match=message):
            list(read_pass(shards, decode, batch_size=10))
        assert not (cache / f"{shards[1].sha256}.tar").exists()
    tar.write_bytes(whole)
    assert sum(len(b["key"]) for b in read_pass(shards, decode, batch_size=10)) == 84


def test_a_download_that_lost_its_source_in_the_middle_is_an_error(server, cache) -> None:
    shard = open_shards(server.url).split("train")[0]
    cache.mkdir(parents=True)
    (cache / f"{shard.sha256}.part").write_bytes((server.folder / "train-000000.tar").read_bytes()[:50_000])
    (server.folder / "train-000000.tar").write_bytes(b"short")
    with pytest.raises(DataError, match=r"is cut off \(HTTP 416\)"):
        remote.local_path(shard)


@pytest.mark.parametrize(("status", "message"), [(404, "is missing"), (403, "is forbidden"), (503, "503.*6 times")])
def test_what_the_server_refuses_is_named_without_secrets(server, status, message) -> None:
    server.refuse["train-000000.tar"] = status
    shards = open_shards(server.url).split("train")
    with pytest.raises(DataError, match=message):
        remote.local_path(shards[0])
    with pytest.raises(DataError, match="is missing") as caught:
        remote.read_remote(f"{server.url}/nothing.json?token=secret")
    assert "secret" not in str(caught.value)
    assert remote.shown("https://me:secret@host:8/a/b.tar?sig=secret") == "https://host:8/a/b.tar"


def test_a_page_in_the_place_of_a_sidecar_is_refused_and_not_kept(server, cache) -> None:
    shards = open_shards(server.url).split("train")
    sidecar = server.folder / "train-000000.json"
    good = sidecar.read_bytes()
    sidecar.write_bytes(b"<html>Please log in</html>")
    with pytest.raises(DataError, match="is not the sidecar"):
        shards[0].index()
    sidecar.write_bytes(good)
    assert len(shards[0].index().keys) == 30


def test_names_in_a_strangers_dataset_json_never_leave_the_cache(server, cache, tmp_path) -> None:
    listing = server.folder / "dataset.json"
    info = json.loads(listing.read_text())
    info["shards"][0]["sha256"] = "../../escaped"
    listing.write_text(json.dumps(info))
    with pytest.raises(DataError, match="no valid sha256"):
        first_keys(open_shards(server.url).split("train"))
    assert not list(tmp_path.rglob("escaped*"))


def test_a_url_without_a_data_set_and_a_scheme_without_its_package_are_named(server) -> None:
    with pytest.raises((ConfigError, DataError), match=r"dataset\.json"):
        open_shards(f"{server.url}/elsewhere")
    with pytest.raises((ConfigError, DataError)):
        open_shards("pipe:touch executed")
    assert not Path("executed").exists()


def test_several_readers_at_once_fetch_a_shard_once(server) -> None:
    server.seconds_per_chunk = 0.005
    shards = open_shards(server.url).split("train")
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(first_keys(shards)))) for _ in range(3)]
    script = READ.format(
        root=Path(__file__).parent.parent, url=server.url, start=0, steps=3, workers=2, path=os.devnull
    )
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(60) for process in processes] == [0, 0] and found == [4, 4, 4]
    assert server.total(".tar") == sum(shard.bytes for shard in shards)


READ = """
import sys
sys.path.insert(0, "{root}")
from tests.test_remote import write_batches
write_batches("{url}", "{path}", start={start}, steps={steps}, workers={workers})
"""


def write_batches(root: str | Path, path: str | Path, *, start: int, steps: int, workers: int) -> None:
    """One line per global batch: step, keys, digest of the pixels."""
    cfg = DataConfig(**CFG, workers=workers)
    batches = open_batches(open_shards(root).split("train"), decode, cfg, seed=3)
    batches.seek(start * cfg.global_batch)
    with Path(path).open("a") as out:
        for step, micro in enumerate(itertools.islice(batches, steps), start):
            pixels = hashlib.sha256(micro[0]["image"].contiguous().numpy().tobytes()).hexdigest()
            print(json.dumps([step, micro[0]["key"], pixels]), file=out, flush=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_sixty_four_shards_killed_in_mid_epoch_give_the_same_batches_for_one_pass_of_bytes(tmp_path, workers) -> None:
    steps, data, local, read = 32, tmp_path / "many", tmp_path / "local.jsonl", tmp_path / "remote.jsonl"
    write_shards(data, [12] * 64, pad=20_000)
    write_batches(data, local, start=0, steps=steps, workers=0)

    def reader(server: FileServer, done: int) -> subprocess.Popen:
        facts = {"url": server.url, "path": read, "start": done, "steps": steps - done, "workers": workers}
        script = READ.format(root=Path(__file__).parent.parent, **facts)
        return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})

    with FileServer(data) as server:
        server.seconds_per_chunk = 0.004
        whole, done = pass_bytes(server), 0
        for share_of_bytes in (0.3, 0.8):
            process = reader(server, done)
            while server.total() < share_of_bytes * whole:
                assert process.poll() is None
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            done = len(read.read_text().splitlines()) if read.exists() else 0
            assert done < steps
        assert reader(server, done).wait(60) == 0
        assert read.read_text() == local.read_text()
        print(f"{server.total() / whole:.3f} passes")
        assert server.total() <= 1.1 * whole
