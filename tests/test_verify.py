"""`verify` finds every kind of damage, and nothing in whole shards."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import shard
from data_prep.verify import verify
from pipeline.errors import ConfigError
from pipeline.samples import Sample, encode_json
from pipeline.shard_index import write_dataset, write_shard
from tests.source_folders import class_folders, encoded, foreign_tar, photo
from tests.test_samples import Payload
from tests.test_sharding import config


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    class_folders(tmp_path / "photos", "ab", 10)
    shard(config(tmp_path / "photos", val=0.2, shard_samples=8), tmp_path / "out")
    return tmp_path / "out"


def samples(count: int = 4) -> list[Sample]:
    return [
        Sample(f"{i:09d}", {"jpg": encoded(photo(i), "JPEG"), "cls": b"1", "json": b'{"source":"x"}'})
        for i in range(count)
    ]


def test_whole_shards_have_no_problems(shards: Path) -> None:
    assert verify(shards) == []


def test_a_cut_at_every_block_is_found(tmp_path: Path) -> None:
    write_dataset(tmp_path, [write_shard(tmp_path, "train-000000", "train", samples(20))], {})
    tar = tmp_path / "train-000000.tar"
    whole = tar.read_bytes()
    assert verify(tmp_path) == []
    cuts = [*range(0, len(whole), 512), *(random.Random(0).randrange(len(whole)) for _ in range(50))]
    for length in cuts:
        tar.write_bytes(whole[:length])
        assert any("train-000000.tar" in line for line in verify(tmp_path)), length
    assert len(cuts) > 90


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    write_dataset(tmp_path, [write_shard(tmp_path, "train-000000", "train", samples())], {})
    tar = tmp_path / "train-000000.tar"
    whole, draw = tar.read_bytes(), random.Random(1)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        tar.write_bytes(damaged)
        assert verify(tmp_path), "a flipped bit went unnoticed"


def edit(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_bytes(encode_json(value))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda d: (d / "train-000001.tar").unlink(), "train-000001.tar: missing"),
    "missing sidecar": (lambda d: (d / "train-000000.json").unlink(), "train-000000.json: missing"),
    "extra shard": (
        lambda d: (d / "train-000009.tar").write_bytes((d / "train-000000.tar").read_bytes()),
        "train-000009.tar: not listed",
    ),
    "extra sidecar": (lambda d: (d / "train-000009.json").write_text("{}"), "train-000009.json: a sidecar without"),
    "empty shard": (lambda d: (d / "val-000000.tar").write_bytes(b""), "val-000000.tar: cut off at byte 0"),
    "garbage shard": (lambda d: (d / "val-000000.tar").write_bytes(b"garbage" * 999), "no tar header at byte 0"),
    "unreadable sidecar": (lambda d: (d / "train-000000.json").write_text("{"), "train-000000.json: unreadable"),
    "unreadable data set": (lambda d: (d / "dataset.json").write_text("{"), "dataset.json: unreadable"),
    "swapped shards": (
        lambda d: [(d / "t").hardlink_to(d / "train-000000.tar"), (d / "train-000000.tar").unlink(),
                   (d / "train-000001.tar").rename(d / "train-000000.tar"), (d / "t").rename(d / "train-000001.tar")],
        "its sidecar says",
    ),
    "wrong count in the sidecar": (
        lambda d: edit(d / "train-000000.json", lambda v: v.update(samples=3)), "states 3 samples",
    ),
    "wrong keys": (lambda d: edit(d / "train-000000.json", lambda v: v["keys"].reverse()), "keys are not those"),
    "wrong offsets": (
        lambda d: edit(d / "train-000000.json", lambda v: v["members"][0]["jpg"].__setitem__(0, 0)), "byte offsets",
    ),
    "wrong count in the data set": (
        lambda d: edit(d / "dataset.json", lambda v: v["splits"]["val"].update(samples=99)), "split 'val' states",
    ),
    "wrong split in the data set": (
        lambda d: edit(d / "dataset.json", lambda v: v["shards"][0].update(split="val")), "states",
    ),
    "one shard listed twice": (
        lambda d: edit(d / "dataset.json", lambda v: v["shards"].append(v["shards"][0])), "lists a shard twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_of_files_is_found_and_named(name: str, shards: Path) -> None:
    damage, expected = DAMAGE[name]
    damage(shards)
    found = verify(shards)
    assert any(expected in line for line in found), found
    assert all("\n" not in line for line in found)


def relabelled(folder: Path, found: list[Sample], name: str = "train-000000") -> None:
    """Shards whose sidecar, hash and counts all fit: only what lies inside is wrong."""
    write_dataset(folder, [write_shard(folder, name, "train", found)], {})


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"pkl": pickle.dumps(1)}, "could run code"),
        ({"pth": b"x"}, "could run code"),
        ({"jpg": b"no picture"}, "jpg: not a"),
        ({"jpg": encoded(photo(1), "JPEG")[:500]}, "jpg: not a readable picture"),
        ({"cls": b"cat"}, "cls: member '.cls' cannot be decoded"),
        ({"txt": b"\xff"}, "txt: member '.txt' cannot"),
        ({"json": b"{"}, "json: member '.json' cannot"),
        ({"flac": b"fLaC"}, "flac: member '.flac' cannot"),
        ({"level0.npy": b"\x93NUMPY"}, "level0.npy: member '.level0.npy' cannot"),
    ],
)
def test_members_that_do_not_decode_are_found(members: dict[str, bytes], expected: str, tmp_path: Path) -> None:
    whole = samples(3)
    relabelled(tmp_path, [whole[0], Sample(whole[1].key, {**whole[1].members, **members}), whole[2]])
    assert any(expected in line for line in verify(tmp_path)), verify(tmp_path)


def test_repeated_keys_and_split_samples_are_found(tmp_path: Path) -> None:
    one, two, three = samples(3)
    relabelled(tmp_path, [one, two, Sample(one.key, three.members)])
    assert any("comes twice" in line for line in verify(tmp_path))
    halves = [Sample(one.key, {"jpg": one.members["jpg"]}), two, Sample(one.key, {"cls": b"1"})]
    relabelled(tmp_path, halves)
    assert any("do not lie together" in line for line in verify(tmp_path))


def test_a_key_in_two_shards_is_found(tmp_path: Path) -> None:
    both = [write_shard(tmp_path, f"train-00000{i}", "train", samples(2)) for i in range(2)]
    write_dataset(tmp_path, both, {})
    assert any("is also in train-000000.tar" in line for line in verify(tmp_path))


@pytest.mark.parametrize("name", ["../0.jpg", "/etc/0.jpg"])
def test_names_that_point_outside_are_found(name: str, tmp_path: Path) -> None:
    foreign_tar(tmp_path / "a.tar", {name: encoded(photo(0), "JPEG")})
    assert any("is not named" in line for line in verify(tmp_path))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_found(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("0.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert any("only files are read" in line for line in verify(tmp_path))


def test_half_a_sample_in_a_tar_of_others_is_found(tmp_path: Path) -> None:
    members = {f"{i}.{e}": payload for i, s in enumerate(samples(5)) for e, payload in s.members.items()}
    foreign_tar(tmp_path / "a.tar", members)
    assert verify(tmp_path) == []
    foreign_tar(tmp_path / "a.tar", {n: p for n, p in members.items() if n != "2.jpg"})
    assert verify(tmp_path) == ["a.tar: sample 2 has no .jpg, as every other one has"]


def test_a_folder_that_was_never_finished_is_found(shards: Path) -> None:
    (shards / "dataset.json").unlink()
    assert verify(shards) == ["dataset.json: missing, so not all was sharded: type the line that shards it again"]
    assert verify(shards.parent)[0].startswith("out/dataset.json: missing")


def test_verify_executes_nothing(tmp_path: Path) -> None:
    out = io.BytesIO()
    pickle.dump(Payload(tmp_path / "canary"), out)
    relabelled(tmp_path, [Sample("0", {"pkl": out.getvalue(), "jpg": encoded(photo(0), "JPEG")})])
    assert verify(tmp_path) and not (tmp_path / "canary").exists()


def test_a_folder_without_shards_is_a_wrong_argument(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError):
            verify(folder)
