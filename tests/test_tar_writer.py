"""Our tars are plain ustar with the same bytes every time, and nothing appears under its name before it is whole."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from pipeline.atomic_file import atomic_file, sweep
from pipeline.errors import DataError
from pipeline.samples import Sample
from pipeline.shard_index import open_shards, scan_tar, write_dataset, write_shard
from pipeline.tar_members import walk
from pipeline.tar_writer import RECORD, TarWriter


def some_samples(count: int = 30) -> list[Sample]:
    return [
        Sample(f"{i:09d}", {"jpg": bytes([i]) * (i * 37 % 1500), "cls": b"%d" % (i % 3), "source.png": b""})
        for i in range(count)
    ]


def write(path: Path, samples: list[Sample]) -> TarWriter:
    with TarWriter(path) as tar:
        for sample in samples:
            tar.write(sample)
    return tar


def test_a_tar_is_byte_for_byte_what_tarfile_writes(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in some_samples():
            for extension, payload in sample.members.items():
                info = tarfile.TarInfo(f"{sample.key}.{extension}")
                info.size, info.mode = len(payload), 0o644
                tar.addfile(info, io.BytesIO(payload))
    write(tmp_path / "a.tar", some_samples())
    ours = bytearray((tmp_path / "a.tar").read_bytes())

    assert len(ours) == len(out.getvalue()) and len(ours) % RECORD == 0
    with tarfile.open(fileobj=io.BytesIO(bytes(ours))) as tar:
        read = [(m.name, m.mode, m.uid, m.mtime, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    expected = [(f"{s.key}.{e}", 0o644, 0, 0, payload) for s in some_samples() for e, payload in s.members.items()]
    assert read == expected


def test_offsets_point_at_the_payloads_and_the_digest_is_the_files(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", some_samples())
    raw = (tmp_path / "a.tar").read_bytes()

    assert tar.sha256 == hashlib.sha256(raw).hexdigest() and tar.size == len(raw)
    for sample, places in zip(some_samples(), tar.members, strict=True):
        assert {e: raw[at : at + size] for e, (at, size) in places.items()} == sample.members
    scanned = scan_tar(tmp_path / "a.tar")
    assert (scanned.keys, scanned.members) == (tar.keys, tar.members)


def test_the_file_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TarWriter(tmp_path / "a.tar") as tar:
        tar.write(some_samples()[0])
        assert not (tmp_path / "a.tar").exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "a.tar", some_samples())
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o644


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    context = atomic_file(tmp_path / "a.tar")
    context.__enter__().write(b"half")
    (tmp_path / ".hidden").touch()
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".hidden"]


def test_long_names_use_the_prefix_and_too_long_ones_are_refused(tmp_path: Path) -> None:
    sample = Sample("d" * 90 + "/" + "k" * 60, {"jpg": b"x"})
    write(tmp_path / "a.tar", [sample])
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == [f"{sample.key}.jpg"]
    assert scan_tar(tmp_path / "a.tar").keys == [sample.key]
    with pytest.raises(DataError, match="at most 100"):
        write(tmp_path / "b.tar", [Sample("k" * 120, {"jpg": b"x"})])


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_of_other_writers_are_walked(style: int, tmp_path: Path) -> None:
    names = ["a.jpg", "./dir/b.jpg", "dir/" + "k" * 90 + ".jpg", *([] if style == 0 else ["x" * 180 + "/안.jpg"])]
    with tarfile.open(tmp_path / "a.tar", "w", format=style) as tar:
        tar.addfile(_directory("dir"))
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 700
            tar.addfile(info, io.BytesIO(bytes(700)))
    with (tmp_path / "a.tar").open("rb") as file:
        found = list(walk(file, where="a.tar"))
    assert [m.name for m in found] == [n.removeprefix("./") for n in names] and {m.size for m in found} == {700}


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def test_a_tar_cut_at_any_block_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", some_samples(5))
    raw = (tmp_path / "a.tar").read_bytes()
    end = len(raw.rstrip(b"\0")) + 512 + 1024
    for length in range(0, end - 1024, 512):
        (tmp_path / "cut.tar").write_bytes(raw[:length])
        with pytest.raises(DataError, match="cut off"):
            scan_tar(tmp_path / "cut.tar")


def test_a_compressed_tar_says_so(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(_directory("dir"))
        tar.addfile(tarfile.TarInfo("a" * 40 + ".jpg"), io.BytesIO())
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes().ljust(1024, b"\0"))
    with pytest.raises(DataError, match="compressed"):
        scan_tar(tmp_path / "a.tar")


def test_a_shard_folder_opens_with_its_splits_and_fingerprint(tmp_path: Path) -> None:
    train = write_shard(tmp_path, "train-000000", "train", some_samples())
    val = write_shard(tmp_path, "val-000000", "val", some_samples(3))
    write_dataset(tmp_path, [val, train], {"classes": ["a", "b", "c"]})
    shards = open_shards(tmp_path)

    assert shards.split("train") == [train] and shards.split("val") == [val]
    assert shards.info["splits"] == {"train": {"samples": 30, "shards": 1}, "val": {"samples": 3, "shards": 1}}
    assert train.index().keys == [s.key for s in some_samples()]
    before = shards.fingerprint
    write_dataset(tmp_path, [train], {"classes": ["a", "b", "c"]})
    assert open_shards(tmp_path).fingerprint != before


def test_tars_of_others_are_indexed_once_and_split_by_name(tmp_path: Path) -> None:
    for name in ("imagenet-train-0000.tar", "imagenet-val-0000.tar", "more/a-0000.tar", "test/0000.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, some_samples(4))
    shards = open_shards(tmp_path)

    assert {name: len(found) for name, found in shards.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert (tmp_path / "imagenet-train-0000.json").is_file()
    assert shards.split("val")[0].index() == scan_tar(tmp_path / "imagenet-val-0000.tar")
    assert open_shards(tmp_path) == shards
