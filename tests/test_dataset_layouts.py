"""Captions and sounds beside pictures; CUB-200, ImageNet, CC12M and VGGSound read as they are unpacked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep import shard
from data_prep.sources import list_source
from pipeline.errors import DataError
from pipeline.shard_index import open_shards
from tests.layout_folders import ALBATROSS, SYNSETS, cc12m, cub200, imagenet, sound, vggsound, write
from tests.source_folders import photo, save
from tests.test_sharding import config, samples_of


def rejects_of(out: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    return {line["source"]: line["reason"] for line in lines}


@pytest.mark.parametrize("folders", ["ab", "a"])
def test_files_beside_a_picture_say_and_sound_it(folders: str, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for folder in folders:
        for name in ("full", "quiet", "lone.source"):
            save(photo(1, 60, 50), source / folder / f"{name}.jpg")
        save(photo(2, 120, 100), source / folder / "full.source.png")
        write(source / folder / "full.txt", "\ufeffone\n  둘 \n\none\n")
        write(source / folder / "notes.txt", "of no picture")
        sound(source / folder / "full.MP3", seconds=1, kind="MP3")
        write(source / folder / "quiet.txt", "\n")
    results = shard(config(source, val=0), tmp_path / "out")

    samples = samples_of(tmp_path / "out")
    assert results["rejected"] == 0 and len(samples) == 3 * len(folders)
    full, quiet, lone = (samples[f"a/{name}.jpg"] for name in ("full", "quiet", "lone.source"))
    assert full["txt"] == "one" and full["json"] == {"source": "a/full.jpg", "captions": ["one", "둘"]}
    assert full["flac"][1] == 16_000 and "source.png" in full  # type: ignore[index]
    assert not {"txt", "flac", "source.png"} & (set(quiet) | set(lone))
    assert full.get("cls") == (0 if folders == "ab" else None)


def test_bad_files_beside_a_picture_are_rejected_one_by_one(tmp_path: Path) -> None:
    for name in ("good", "latin", "long", "cut", "empty", "hours"):
        save(photo(1), tmp_path / "photos" / f"{name}.png")
    (tmp_path / "photos" / "latin.txt").write_bytes("good\ncafé".encode("latin-1"))
    write(tmp_path / "photos" / "long.txt", "good\n" + "x" * 70_000)
    flac = sound(tmp_path / "photos" / "cut.flac", seconds=1).read_bytes()
    (tmp_path / "photos" / "cut.flac").write_bytes(flac[: len(flac) // 3])
    (tmp_path / "photos" / "empty.wav").touch()
    sound(tmp_path / "photos" / "hours.flac", seconds=700)
    shard(config(tmp_path / "photos", val=0, max_reject_rate=1), tmp_path / "out")

    assert set(samples_of(tmp_path / "out")) == {"good.png"}
    assert rejects_of(tmp_path / "out") == {
        "latin.png": "bad_caption", "long.png": "bad_caption", "cut.png": "damaged_sound",
        "empty.png": "empty_file", "hours.png": "too_long_sound",
    }  # fmt: skip


@pytest.mark.parametrize("captions", ["text", "CUB_200_2011/text_c10", "cvpr2016_cub/text_c10", "birds/text"])
def test_cub200_has_captions_species_and_its_own_splits(captions: str, tmp_path: Path) -> None:
    shard(config(cub200(tmp_path / "cub", captions)), tmp_path / "out")

    assert open_shards(tmp_path / "out").info["classes"] == ["Black footed Albatross", "Indigo Bunting"]
    samples = samples_of(tmp_path / "out")
    seen = {Path(source).stem: (s["split"], s["cls"]) for source, s in samples.items()}
    assert seen == {"Albatross_0": ("train", 0), "Albatross_1": ("val", 0), "B_0": ("train", 1), "B_1": ("val", 1)}
    first = samples[f"{ALBATROSS}/Albatross_0.jpg"]
    assert first["json"]["captions"] == [f"Albatross_0 {i}" for i in range(10)]  # type: ignore[index]
    assert sum("txt" in sample for sample in samples.values()) == 3


def test_cub200_is_found_from_inside_and_a_lost_picture_is_rejected(tmp_path: Path) -> None:
    base = cub200(tmp_path / "cub") / "CUB_200_2011"
    (base / "images" / ALBATROSS / "Albatross_1.jpg").unlink()
    write(base / "images.txt", (base / "images.txt").read_text().replace(" 014", " ../../014"))
    results = shard(config(base, max_reject_rate=1), tmp_path / "out")
    assert results["reasons"] == {"missing_file": 3} and set(samples_of(tmp_path / "out")) == {
        f"{ALBATROSS}/Albatross_0.jpg"
    }


@pytest.mark.parametrize("packed", [True, False])
def test_imagenet_has_names_and_labels_in_both_layouts(packed: bool, tmp_path: Path) -> None:
    shard(config(imagenet(tmp_path / "imagenet", packed=packed)), tmp_path / "out")

    info = open_shards(tmp_path / "out").info
    assert info["classes"] == ["tench", "crane (n02012849)", "crane (n03126707)"]
    assert {name: split["samples"] for name, split in info["splits"].items()} == {"train": 6, "val": 3}
    for source, sample in samples_of(tmp_path / "out").items():
        split, *inner = source.split("/")
        in_folder = list(SYNSETS).index(inner[0]) if len(inner) > 1 else 9 - int(source[-6])
        assert (sample["split"], sample["cls"]) == (split, in_folder)


def test_imagenet_without_names_or_labels(tmp_path: Path) -> None:
    root = imagenet(tmp_path / "imagenet", packed=True)
    (root / "LOC_synset_mapping.txt").unlink()
    assert list_source(config(root / "ILSVRC")).classes == tuple(SYNSETS)

    (root / "LOC_val_solution.csv").unlink()
    bare = list_source(config(root, labels="none"))
    assert (bare.classes, len(bare.items), {item.label for item in bare.items}) == ((), 9, {None})


def test_pictures_of_imagenet_without_a_class_of_train_are_rejected(tmp_path: Path) -> None:
    root = imagenet(tmp_path / "imagenet", packed=True)
    solution = root / "LOC_val_solution.csv"
    lines = solution.read_text().splitlines()
    write(solution, "\n".join([lines[1].replace("n01440764", "n99999999"), lines[2]]))
    items = list_source(config(root)).items
    refused = {item.source: item.refused for item in items if item.refused}
    assert refused == {
        "val/ILSVRC2012_val_00000009.JPEG": ("no_label", "'n99999999' is no folder of train"),
        "val/ILSVRC2012_val_00000007.JPEG": (
            "no_label",
            "outside of class folders, and no line of LOC_val_solution.csv",
        ),
    }
    assert {item.split for item in items if item.refused} == {"val"}


def test_cc12m_is_read_from_the_tars_of_img2dataset(tmp_path: Path) -> None:
    results = shard(config(cc12m(tmp_path / "cc12m"), val=0.2), tmp_path / "out")

    samples = samples_of(tmp_path / "out")
    assert (results["samples"], results["classes"], results["modalities"]) == (6, 0, ["image", "text"])
    assert {sample["split"] for sample in samples.values()} == {"train", "val"}
    one = samples["00001.tar:000010002"]
    assert one["txt"] == "caption 000010002"
    assert one["json"]["captions"] == ["caption 000010002"]  # type: ignore[index]
    assert one["json"]["metadata"]["url"] == "https://example.org"  # type: ignore[index]


def test_vggsound_has_labels_captions_and_sounds(tmp_path: Path) -> None:
    shard(config(vggsound(tmp_path / "vggsound")), tmp_path / "out")

    assert open_shards(tmp_path / "out").info["classes"] == [
        "people marching",
        "playing violin, fiddle",
        "zebra braying",
    ]
    samples = samples_of(tmp_path / "out")
    assert {s: (x["split"], x["cls"], x["txt"]) for s, x in samples.items()} == {
        "frames/---g-f_I2yQ_000001.jpg": ("val", 0, "people marching"),
        "frames/--0PQM4-hqg_000030.jpg": ("train", 1, "playing violin, fiddle"),
        "frames/_ab_000123.jpg": ("train", 0, "people marching"),
    }
    sounds = [{"flac", "wav"} & set(samples[source]) for source in sorted(samples)]
    assert sounds == [{"flac"}, {"wav"}, set()]


def without(make: Callable[..., Path], *names: str, **options: Any) -> Callable[[Path], Path]:
    """A fixture with files or folders taken away."""

    def build(root: Path) -> Path:
        make(root, **options)
        for name in names:
            for path in sorted(root.glob(name)):
                path.rename(root.parent / f"taken away {path.name}")
        return root

    return build


def spoiled(make: Callable[..., Path], name: str, text: str, **options: Any) -> Callable[[Path], Path]:
    """A fixture with a file rewritten."""

    def build(root: Path) -> Path:
        write(make(root, **options) / name, text)
        return root

    return build


CUB, KAGGLE = "CUB_200_2011", "ILSVRC/Data/CLS-LOC"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (without(cub200, f"{CUB}/classes.txt"), r"CUB_200_2011 has no classes\.txt"),
        (spoiled(cub200, f"{CUB}/classes.txt", f"1 {ALBATROSS}\n"), r"labels\.txt: picture 3 .* has no class of"),
        (spoiled(cub200, f"{CUB}/images.txt", "1 a.jpg\n1 b.jpg\n"), r"images\.txt:2: '1' comes twice"),
        (spoiled(cub200, f"{CUB}/train_test_split.txt", "1 1\n2 x\n"), r"split\.txt: picture 2 .* neither 0 nor 1"),
        (without(cub200, f"text/{ALBATROSS}", "text/014*"), r"text holds captions of none .*Albatross_0\.txt"),
        (without(imagenet, f"{KAGGLE}/train", packed=True), r"train must hold class folders such as n01440764"),
        (without(imagenet, "LOC_val_solution.csv", packed=True), r"3 pictures outside .* no LOC_val_solution\.csv"),
        (spoiled(imagenet, "LOC_val_solution.csv", "a,b\nc,d\n", packed=True), r"solution\.csv:2: not a picture and"),
        (spoiled(imagenet, "LOC_synset_mapping.txt", "tench\n", packed=False), r"mapping\.txt:1: not a class and its"),
        (without(vggsound, "frames"), r"no picture of any clip .*frames/---g-f_I2yQ_000001\.jpg"),
        (spoiled(vggsound, "vggsound.csv", "id,start,label,split\n"), r"vggsound\.csv:1: not id,start,label,split"),
        (spoiled(vggsound, "vggsound.csv", '\n"a,1,b,train\n'), r"vggsound\.csv: unexpected end of data"),
    ],
)  # fmt: skip
def test_a_missing_piece_is_named(build: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        list_source(config(build(tmp_path / "data")))
    assert re.search(message, str(caught.value)) and len(str(caught.value).splitlines()) <= 2


def test_a_tar_that_img2dataset_did_not_finish_says_so(tmp_path: Path) -> None:
    source = cc12m(tmp_path / "cc12m")
    whole = (source / "00001.tar").read_bytes()
    (source / "00001.tar").write_bytes(whole[: len(whole) // 2])
    (source / "00001_stats.json").unlink()
    with pytest.raises(DataError, match=r"(?s)00001\.tar: cut off.*img2dataset was stopped in it"):
        list_source(config(source))
