"""Folders as people have them: links, strays, parts of img2dataset, strips, faults of the disk, names like ours."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_prep import shard
from data_prep.items import Place, label_text
from data_prep.sources import list_source
from data_prep.verify import verify
from pipeline.errors import DataError
from pipeline.shard_index import open_shards
from pipeline.shards import read_samples
from tests.source_folders import class_folders, encoded, foreign_tar, photo, save
from tests.test_sharding import config, samples_of


def tar_of(path: Path, caption: str = "a bird", count: int = 2) -> Path:
    members: dict[str, bytes] = {}
    for i in range(count):
        members |= {f"{i}.jpg": encoded(photo(i), "JPEG"), f"{i}.txt": caption.encode(), f"{i}.cls": b"crow"}
    return foreign_tar(path, members)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("annotations", [{"images": [1]}, [1, 2], "no JSON at all {"])
def test_a_file_of_others_named_like_a_sidecar_stays_as_it_is(annotations: object, tmp_path: Path) -> None:
    tar_of(tmp_path / "data" / "train.tar")
    theirs = tmp_path / "data" / "train.json"
    theirs.write_text(annotations if isinstance(annotations, str) else json.dumps(annotations))
    before = theirs.read_bytes()

    for _ in range(2):  # indexed, then read from the index
        shards = open_shards(tmp_path / "data").split("train")
        assert [sample.members["txt"] for sample in read_samples(shards[0])] == [b"a bird"] * 2

    assert theirs.read_bytes() == before
    assert len(list((tmp_path / "cache" / "indexes").glob("*.json"))) == 1
    assert verify(tmp_path / "data") == []


def test_a_tar_made_anew_with_the_same_length_is_indexed_anew(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "data" / "a.tar", "a red bird")
    first = open_shards(tmp_path / "data")
    assert (tmp_path / "data" / "a.json").is_file()
    size = tar.stat().st_size
    tar_of(tar, "two blue owls at night")
    later = (tmp_path / "data" / "a.json").stat().st_mtime_ns + 10**9
    os.utime(tar, ns=(later, later))
    assert tar.stat().st_size == size

    second = open_shards(tmp_path / "data")
    assert [sample.members["txt"] for sample in read_samples(second.split("train")[0])] == [
        b"two blue owls at night"
    ] * 2
    assert second.fingerprint != first.fingerprint


def test_verify_goes_on_behind_a_sidecar_without_keys(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", "ab", 6)
    shard(config(tmp_path / "photos", val=0, shard_samples=4), tmp_path / "out")
    sidecar = tmp_path / "out" / "train-000000.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"keys": None}))
    assert verify(tmp_path / "out") == ["train-000000.json: its keys are not those of the tar"]
    sidecar.write_text("[" * 100_000)
    assert any("train-000000.json: unreadable" in line for line in verify(tmp_path / "out"))


def test_links_are_followed_and_those_that_lead_back_are_not(tmp_path: Path) -> None:
    class_folders(tmp_path / "disk", "ab", 3)
    class_folders(tmp_path / "photos", "c", 3)
    for name in "ab":
        (tmp_path / "photos" / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "a" / "back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "c" / "up").symlink_to("..")
    listing = list_source(config(tmp_path / "photos"))
    assert listing.classes == ("a", "b", "c")
    assert sum(item.source.count("/") == 1 for item in listing.items) == 9
    assert all("up/" not in item.source for item in listing.items)


def test_a_picture_beside_the_splits_is_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / "photos" / split, "ab", 3)
    save(photo(1), tmp_path / "photos" / "preview.png")
    with pytest.raises(DataError, match=r"preview\.png lies beside the folders of splits \(1 such\)"):
        list_source(config(tmp_path / "photos"))


def test_tars_and_pictures_in_one_folder_are_refused_and_both_named(tmp_path: Path) -> None:
    tar_of(tmp_path / "set" / "data" / "train.tar")
    save(photo(1), tmp_path / "set" / "assets" / "teaser.png")
    with pytest.raises(DataError, match=r"tars \(data/train.tar\) and pictures \(assets/teaser.png\)"):
        list_source(config(tmp_path / "set"))
    assert len(list_source(config(tmp_path / "set" / "data")).items) == 2


def test_the_parts_of_img2dataset_are_no_classes(tmp_path: Path) -> None:
    for part in ("00000", "00001"):
        for i in range(3):
            save(photo(i), tmp_path / "laion" / part / f"{part}{i:04d}.jpg").with_suffix(".txt").write_text("a bird")
        (tmp_path / "laion" / f"{part}_stats.json").write_text("{}")
    listing = list_source(config(tmp_path / "laion"))
    assert listing.classes == () and {item.label for item in listing.items} == {None} and len(listing.items) == 6


@pytest.mark.parametrize(
    ("value", "label"),
    [("2.0", "2"), (2.0, "2"), ("-1", None), (-1, None), ("-1.0", None), (float("nan"), None), ("", None), (None, None),
     (" owl ", "owl"), ("1.5", "1.5"), (7, "7"), ("007", "007")],
)  # fmt: skip
def test_a_label_is_a_whole_number_or_a_name(value: Any, label: str | None) -> None:
    assert label_text(value) == label


def test_numbers_in_tables_with_gaps_and_in_tars_stay_what_they_are(tmp_path: Path) -> None:
    lines = ["file_name,label"]
    members: dict[str, bytes] = {}
    for i, label in enumerate(("0.0", "2.0", "10.0", "")):
        save(photo(i), tmp_path / "table" / f"{i}.png")
        lines.append(f"{i}.png,{label}")
        members |= {f"{i}.png": encoded(photo(i), "PNG"), f"{i}.cls": (label or "-1").encode()}
    (tmp_path / "table" / "metadata.csv").write_text("\n".join(lines) + "\n")
    foreign_tar(tmp_path / "tars" / "a.tar", members)
    for source in ("table", "tars"):
        listing = list_source(config(tmp_path / source))
        assert listing.classes == tuple(map(str, range(11))), source
        assert [item.label for item in listing.items] == [0, 2, 10, None], source


@pytest.mark.parametrize(
    ("row", "captions"),
    [
        ({"caption": "one"}, ["one"]),
        ({"caption": ["one", "two"], "text": "three"}, ["three", "one", "two"]),
        ({"text": "[1]"}, ["[1]"]),
        ({"text": "[" * 5000}, ["[" * 5000]),
        ({"text": '["one", "two"]'}, ["one", "two"]),
    ],
)
def test_captions_of_a_table_are_known_by_every_name_and_may_open_with_a_bracket(
    row: dict[str, object], captions: list[str], tmp_path: Path
) -> None:
    save(photo(1), tmp_path / "photos" / "1.png")
    (tmp_path / "photos" / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", **row}) + "\n")
    (item,) = list_source(config(tmp_path / "photos")).items
    assert list(item.captions) == captions


def test_a_class_under_another_name_than_label_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"file_name": "a.png", "class": "owl"}
    for named, warned in ((row, True), (row | {"label": "owl"}, False)):
        caplog.clear()
        (tmp_path / "metadata.jsonl").write_text(json.dumps(named) + "\n")
        listing = list_source(config(tmp_path))
        assert listing.classes == (() if warned else ("owl",))
        assert ("column 'class' is no class: that is read from 'label'" in caplog.text) is warned


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    save(photo(1), tmp_path / "photos" / "1.png")
    (tmp_path / "photos" / "metadata.csv").mkdir()
    with pytest.raises(DataError, match=r"metadata\.csv cannot be read: Is a directory"):
        list_source(config(tmp_path / "photos"))


@pytest.mark.parametrize(("kind", "size"), [("webp", (72, 20_000)), ("jpg", (70, 66_000)), ("jpg", (66_000, 70))])
def test_a_strip_too_long_for_its_format_is_stored_as_its_middle(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    save(Image.new("RGB", size, "red"), tmp_path / "photos" / "strip.png")
    for i in range(3):
        save(photo(i), tmp_path / "photos" / f"{i}.png")
    results = shard(config(tmp_path / "photos", format=kind, val=0), tmp_path / "out")
    assert (results["samples"], results["rejected"]) == (4, 0)
    height, width = samples_of(tmp_path / "out")["strip.png"][kind].shape[:2]  # type: ignore[attr-defined]
    assert max(height, width) == 16 * min(height, width) and min(height, width) == 36


def test_what_a_format_does_not_hold_is_a_reject_with_its_name(tmp_path: Path) -> None:
    save(Image.new("L", (1110, 17_500)), tmp_path / "photos" / "tall.png")
    save(Image.new("L", (1110, 1200)), tmp_path / "photos" / "plain.png")
    cfg = config(tmp_path / "photos", size=1100, margin=1.0, format="webp", val=0, max_reject_rate=1.0)
    results = shard(cfg, tmp_path / "out")
    assert (results["samples"], results["reasons"]) == (1, {"too_long_picture": 1})
    (reject,) = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert reject["source"] == "tall.png" and "try format=png" in reject["detail"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_fault_of_the_disk_is_no_reject(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(photo(1), tmp_path / "1.png")

    def fails(self: Path, *_: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(DataError, match=r"1\.png: .*The same line typed again goes on"):
        Place(str(tmp_path / "1.png"), -1).read()
