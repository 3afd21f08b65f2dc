"""Tars made by others as a source, and our own shards read again; nothing in them is executed or written outside."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from data_prep import shard
from pipeline.errors import DataError
from pipeline.samples import Sample
from pipeline.shard_index import open_shards, write_shard
from pipeline.shards import read_samples
from stages.conditioning.said import captions_of
from tests.source_folders import class_folders, encoded, foreign_tar, photo, sound
from tests.test_samples import Payload
from tests.test_sharding import config, samples_of


def test_tars_of_others_get_new_keys_and_keep_what_they_hold(tmp_path: Path) -> None:
    wav = sound(tmp_path / "a.wav", kind="WAV")
    for part, split in ((0, "train"), (1, "train"), (2, "val")):
        members = {}
        for i in range(3):
            members[f"dir/{i}.jpeg"] = encoded(photo(i), "JPEG")
            members[f"dir/{i}.cls"] = b"7\n"
            members[f"dir/{i}.txt"] = "새".encode()
            members[f"dir/{i}.json"] = json.dumps({"caption": "bird", "width": 48, "score": float("nan")}).encode()
            members[f"dir/{i}.wav"] = wav
        foreign_tar(tmp_path / "tars" / f"set-{split}-{part:04d}.tar", members)
    before = sorted(p.name for p in (tmp_path / "tars").iterdir())
    results = shard(config(tmp_path / "tars"), tmp_path / "out")

    assert {name: split["samples"] for name, split in results["splits"].items()} == {"train": 6, "val": 3}
    samples = samples_of(tmp_path / "out")
    one = samples["set-train-0001.tar:dir/2"]
    assert (one["cls"], one["txt"]) == (7, "새") and one["wav"][1] == 16_000  # type: ignore[index]
    assert one["json"] == {
        "source": "set-train-0001.tar:dir/2", "captions": ["새", "bird"], "metadata": {"width": 48, "score": None},
    }  # fmt: skip
    assert sorted(str(sample["key"]) for sample in samples.values()) == [f"{i:09d}" for i in range(9)]
    assert sorted(p.name for p in (tmp_path / "tars").iterdir()) == before


@pytest.mark.parametrize(
    ("record", "captions"),
    [
        ({"caption": "one"}, ["one"]),
        ({"captions": "one"}, ["one"]),
        ({"caption": ["one", 2, "three"]}, ["one", "three"]),
        ({"captions": ["one"], "caption": "two"}, ["one"]),
        ({"captions": 7}, None),
    ],
)
def test_captions_in_json_are_one_or_a_list(
    record: dict[str, object], captions: list[str] | None, tmp_path: Path
) -> None:
    members = {}
    for i in range(3):
        members |= {f"{i}.jpg": encoded(photo(i), "JPEG"), f"{i}.json": json.dumps(record).encode()}
    foreign_tar(tmp_path / "tars" / "a.tar", members)
    shard(config(tmp_path / "tars"), tmp_path / "out")
    for sample in samples_of(tmp_path / "out").values():
        assert sample["json"].get("captions") == captions  # type: ignore[attr-defined]
    stored = next(read_samples(next(iter(open_shards(tmp_path / "out").splits.values()))[0]))
    assert captions_of(stored) == captions_of(Sample("0", {"json": members["0.json"]})) == (captions or [])


def test_our_own_shards_can_be_made_anew_at_another_size(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", "ab", 8)
    shard(config(tmp_path / "photos"), tmp_path / "first")
    shard(config(tmp_path / "first", size=16), tmp_path / "second")

    first, second = samples_of(tmp_path / "first"), samples_of(tmp_path / "second")
    assert open_shards(tmp_path / "second").info["classes"] == ["a", "b"] and len(second) == len(first)
    assert {s["split"] for s in second.values()} == {"train", "val"}
    assert min(next(iter(second.values()))["jpg"].shape[:2]) == 18  # type: ignore[attr-defined]


def test_a_tar_with_a_pickle_is_refused_and_never_executed(tmp_path: Path) -> None:
    payload = pickle.dumps(Payload(tmp_path / "canary"))
    foreign_tar(tmp_path / "tars" / "a-000000.tar", {"0.jpg": encoded(photo(0), "JPEG"), "0.pkl": payload})
    with pytest.raises(DataError, match=r"'0\.pkl' could run code"):
        shard(config(tmp_path / "tars"), tmp_path / "out")
    with pytest.raises(DataError, match="never executed"):
        open_shards(tmp_path / "tars")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["../0.jpg", "/etc/0.jpg", "a/../../0.jpg"])
def test_a_tar_that_points_outside_is_refused(name: str, tmp_path: Path) -> None:
    foreign_tar(tmp_path / "tars" / "a.tar", {name: encoded(photo(0), "JPEG")})
    with pytest.raises(DataError, match="not named"):
        shard(config(tmp_path / "tars"), tmp_path / "out")


def test_samples_without_a_picture_are_rejected(tmp_path: Path) -> None:
    samples = [Sample(f"{i}", {"txt": b"x", **({"png": encoded(photo(i), "PNG")} if i else {})}) for i in range(3)]
    (tmp_path / "tars").mkdir()
    write_shard(tmp_path / "tars", "a-000000", "train", samples)
    results = shard(config(tmp_path / "tars", val=0, max_reject_rate=0.5), tmp_path / "out")
    assert (results["samples"], results["reasons"]) == (2, {"no_image": 1})
