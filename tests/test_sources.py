"""Every kind of source lists what its files say, in a fixed order, and says what it cannot read, and where."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_prep import shard
from data_prep.sources import list_source
from pipeline.errors import ConfigError, DataError
from pipeline.shard_index import open_shards
from tests.source_folders import class_folders, encoded, photo, save, sound
from tests.test_sharding import config, samples_of


def write_table(folder: Path, kind: str, rows: list[dict[str, object]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    elif kind == "csv":
        with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "metadata.parquet")


def test_class_folders_are_labelled_by_sorted_names(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", "cab", 4)
    save(photo(1), tmp_path / "photos" / "a" / "deep" / "er" / "x.PNG")
    (tmp_path / "photos" / ".hidden").mkdir()
    (tmp_path / "photos" / "a" / "notes.txt").write_text("no picture")
    shard(config(tmp_path / "photos"), tmp_path / "out")

    samples = samples_of(tmp_path / "out")
    assert open_shards(tmp_path / "out").info["classes"] == ["a", "b", "c"] and len(samples) == 13
    assert {source: sample["cls"] for source, sample in samples.items()} == {
        source: "abc".index(source[0]) for source in samples
    }


@pytest.mark.parametrize("labels", ["auto", "none", "folders"])
def test_a_bare_folder_has_no_labels_unless_asked_for(labels: str, tmp_path: Path) -> None:
    for i in range(6):
        save(photo(i), tmp_path / "photos" / "2024" / f"{i}.png")
    listing = list_source(config(tmp_path / "photos", labels=labels))
    assert [item.source for item in listing.items] == [f"2024/{i}.png" for i in range(6)]
    assert listing.classes == (("2024",) if labels == "folders" else ())
    assert {item.label for item in listing.items} == ({0} if labels == "folders" else {None})


def test_split_folders_keep_their_splits(tmp_path: Path) -> None:
    for split, count in (("train", 9), ("validation", 3), ("test", 2)):
        for i in range(count):
            save(photo(i), tmp_path / "photos" / split / "ab"[i % 2] / f"{i}.png")
    shard(config(tmp_path / "photos", val=0.5), tmp_path / "out")

    info = open_shards(tmp_path / "out").info
    assert info["classes"] == ["a", "b"]
    assert {name: split["samples"] for name, split in info["splits"].items()} == {"train": 9, "val": 3, "test": 2}


def test_a_test_split_alone_leaves_val_to_be_taken_from_train(tmp_path: Path) -> None:
    for split, count in (("train", 30), ("test", 10)):
        for i in range(count):
            save(photo(i, 32, 32), tmp_path / "photos" / split / f"{i}.png")
    shard(config(tmp_path / "photos", val=0.3), tmp_path / "out")

    splits = {source: sample["split"] for source, sample in samples_of(tmp_path / "out").items()}
    assert {split for source, split in splits.items() if source.startswith("test/")} == {"test"}
    drawn = [split for source, split in splits.items() if source.startswith("train/")]
    assert set(drawn) == {"train", "val"} and 3 <= drawn.count("val") <= 16


@pytest.mark.parametrize(
    ("path", "split", "found"),
    [
        ("data/train/0.png", None, "train"),
        ("data/TEST/0.png", None, "test"),
        ("0.png", None, None),
        ("data/test/0.png", "validation", "val"),
        ("data/train.png", None, None),
    ],
)
def test_the_split_of_a_row_is_what_it_says_or_its_folder(
    path: str, split: str | None, found: str | None, tmp_path: Path
) -> None:
    save(photo(0), tmp_path / path)
    write_table(tmp_path, "jsonl", [{"file_name": path} | ({"split": split} if split else {})])
    assert [item.split for item in list_source(config(tmp_path)).items] == [found]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "0.png", "split": "dev"}, "metadata.jsonl:2: no split 'dev'. Known: train, val"),
        (
            {"file_name": "0.png", "label": "cut \ud83d"},
            r"metadata.jsonl:2: 'label' holds half of a letter: 'cut \ud83d'",
        ),
        ({"file_name": "0.png", "label": "\udc80"}, "metadata.jsonl:2: 'label' holds half of a letter"),
        ({"file_name": "cut \ud83d.png"}, "metadata.jsonl:2: 'file_name' holds half of a letter"),
    ],
)
def test_a_row_that_says_what_nobody_knows_is_named(row: dict[str, object], message: str, tmp_path: Path) -> None:
    save(photo(0), tmp_path / "0.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png"}\n' + json.dumps(row))
    with pytest.raises(DataError) as caught:
        list_source(config(tmp_path))
    assert message in str(caught.value)


def test_half_of_a_letter_in_a_caption_costs_its_own_picture_alone(tmp_path: Path) -> None:
    for i in range(3):
        save(photo(i), tmp_path / "photos" / f"{i}.png")
    rows: list[dict[str, object]] = [{"file_name": f"{i}.png", "text": f"bird {i}"} for i in range(3)]
    rows[1]["text"] = "cut \ud83d"
    (tmp_path / "photos" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for _ in range(2):  # typed again, it is the same plan
        results = shard(config(tmp_path / "photos", max_reject_rate=1, val=0), tmp_path / "out")
        assert results["reasons"] == {"bad_caption": 1}
    assert set(samples_of(tmp_path / "out")) == {"0.png", "2.png"}


def test_the_split_of_a_file_does_not_depend_on_the_other_files(tmp_path: Path) -> None:
    for i in range(60):
        save(photo(i, 32, 32), tmp_path / "photos" / f"{i:02d}.png")
    shard(config(tmp_path / "photos", val=0.3), tmp_path / "all")
    for i in range(0, 60, 2):
        (tmp_path / "photos" / f"{i:02d}.png").unlink()
    shard(config(tmp_path / "photos", val=0.3), tmp_path / "half")

    before, after = samples_of(tmp_path / "all"), samples_of(tmp_path / "half")
    assert 8 <= sum(sample["split"] == "val" for sample in before.values()) <= 28
    assert {s: x["split"] for s, x in after.items()} == {s: before[s]["split"] for s in after}


def test_a_small_folder_still_has_a_val_split(tmp_path: Path) -> None:
    for i in range(3):
        save(photo(i), tmp_path / "photos" / f"{i}.png")
    results = shard(config(tmp_path / "photos", val=0.001), tmp_path / "out")
    assert {name: split["samples"] for name, split in results["splits"].items()} == {"train": 2, "val": 1}


def test_count_takes_so_many_whatever_their_order(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", "ab", 20)
    results = shard(config(tmp_path / "photos", count=11), tmp_path / "out")
    assert results["samples"] == 11
    assert {source[0] for source in samples_of(tmp_path / "out")} == {"a", "b"}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_tables_give_labels_texts_and_the_rest(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    attributes: object = {"wing": "red"}
    rows = [
        {"file_name": f"img/{i}.png", "label": "ba"[i % 2], "text": f"새 {i}", "year": 1990 + i,
         "attributes": json.dumps(attributes) if kind == "csv" else attributes}
        for i in range(4)
    ]  # fmt: skip
    for i in range(4):
        save(photo(i), source / "img" / f"{i}.png")
    save(photo(9), source / "img" / "not_listed.png")
    write_table(source, kind, rows)
    shard(config(source), tmp_path / "out")

    samples = samples_of(tmp_path / "out")
    assert len(samples) == 4 and open_shards(tmp_path / "out").info["classes"] == ["a", "b"]
    one = samples["img/2.png"]
    assert (one["cls"], one["txt"]) == (1, "새 2")
    year = "1992" if kind == "csv" else 1992
    assert one["json"] == {
        "source": "img/2.png", "captions": ["새 2"], "attributes": {"wing": "red"}, "metadata": {"year": year}
    }  # fmt: skip


def test_numbers_as_labels_stay_the_indexes_they_are(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"file_name": f"{i}.png", "label": 2 * i - 1 if i else -1} for i in range(4)]
    for i in range(4):
        save(photo(i), tmp_path / "photos" / f"{i}.png")
    write_table(tmp_path / "photos", "jsonl", rows)
    listing = list_source(config(tmp_path / "photos"))
    assert [item.label for item in listing.items] == [None, 1, 3, 5]
    assert listing.classes == tuple("012345")


def test_several_captions_sounds_and_source_pictures_are_stored(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    save(photo(1, 120, 80), source / "a.png")
    save(photo(2, 240, 160), source / "sketch.png")
    save(photo(3, 90, 90), source / "b.png")
    flac, _ = sound(source / "a.flac"), sound(source / "b.ogg", kind="OGG")
    rows: list[dict[str, object]] = [
        {"file_name": "a.png", "text": ["one", " two ", "", "one"], "audio": "a.flac", "source": "sketch.png"},
        {"file_name": "b.png", "text": "three", "captions": ["four"], "audio": "b.ogg"},
    ]
    write_table(source, "jsonl", rows)
    results = shard(config(source, val=0), tmp_path / "out")

    samples = samples_of(tmp_path / "out")
    assert results["modalities"] == ["audio", "image", "source", "text"]
    assert samples["a.png"]["json"]["captions"] == ["one", "two"] and samples["a.png"]["txt"] == "one"  # type: ignore
    assert samples["b.png"]["json"]["captions"] == ["three", "four"]  # type: ignore[index]
    assert samples["a.png"]["source.png"].shape == samples["a.png"]["jpg"].shape  # type: ignore[attr-defined]
    assert flac in (tmp_path / "out" / "train-000000.tar").read_bytes()
    assert samples["b.png"]["flac"][0].shape[0] == 1  # type: ignore[index]
    assert "source.png" not in samples["b.png"]


def test_a_cell_of_csv_may_hold_a_list_of_captions(tmp_path: Path) -> None:
    for i in range(2):
        save(photo(i), tmp_path / "photos" / f"{i}.png")
    rows: list[dict[str, object]] = [
        {"file_name": "0.png", "text": "one", "captions": '["two", "three"]'},
        {"file_name": "1.png", "text": "[sic] four", "captions": ""},
    ]
    write_table(tmp_path / "photos", "csv", rows)
    shard(config(tmp_path / "photos", val=0), tmp_path / "out")
    captions = {name: one["json"]["captions"] for name, one in samples_of(tmp_path / "out").items()}  # type: ignore
    assert captions == {"0.png": ["one", "two", "three"], "1.png": ["[sic] four"]}


def test_a_sound_too_long_to_be_read_is_called_so_and_a_large_one_is_packed(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for i in range(2):
        save(photo(i), source / f"{i}.png")
    hours = source / "0.wav"
    with soundfile.SoundFile(hours, "w", 16_000, 1, "PCM_16") as file:
        for _ in range(40):  # 40 minutes and 77 MB: more than a member may hold
            file.write(np.zeros(16_000 * 60, np.int16))
    soundfile.write(source / "1.wav", np.zeros((48_000 * 400, 2), np.int16), 48_000)  # 77 MB in seven minutes
    results = shard(config(source, max_reject_rate=1, val=0), tmp_path / "out")
    assert results["reasons"] == {"too_long_sound": 1}
    (sample,) = samples_of(tmp_path / "out").values()
    assert sample["flac"][0].shape == (2, 48_000 * 400)  # type: ignore[index]


def test_bad_rows_are_rejected_one_by_one(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for i in range(5):
        save(photo(i), source / f"{i}.png")
    (tmp_path / "secret.png").write_bytes(encoded(photo(8), "PNG"))
    (source / "broken.wav").write_bytes(b"RIFF" + bytes(40))
    rows: list[dict[str, object]] = [
        *({"file_name": f"{i}.png"} for i in range(2)),
        {"file_name": "gone.png"}, {"file_name": "../secret.png"}, {"file_name": str(tmp_path / "secret.png")},
        {"file_name": "2.png", "audio": "gone.wav"}, {"file_name": "3.png", "audio": "broken.wav"},
        {"file_name": "4.png", "text": "x" * 70_000},
    ]  # fmt: skip
    write_table(source, "jsonl", rows)
    results = shard(config(source, max_reject_rate=1, val=0), tmp_path / "out")
    assert results["reasons"] == {"missing_file": 2, "outside_folder": 2, "bad_caption": 1, "damaged_sound": 1}
    assert set(samples_of(tmp_path / "out")) == {"0.png", "1.png"}


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("metadata.jsonl", '{"file_name": "0.png"}\n{"file_name": \n', "metadata.jsonl:2: not a line of JSON"),
        ("metadata.jsonl", '{"file_name": "0.png"}\n\n[1]\n', "metadata.jsonl:3: not a JSON object"),
        ("metadata.jsonl", '{"name": "0.png"}\n', "metadata.jsonl:1: no 'file_name'"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": 3}\n', "metadata.jsonl:1: 'text' must be"),
        ("metadata.jsonl", '{"file_name": "0.png", "attributes": 3}\n', "metadata.jsonl:1: 'attributes' must be"),
        ("metadata.csv", "file_name,text\n0.png,a\n1.png,b,c\n", "metadata.csv:3: more fields"),
        ("metadata.csv", "file_name,text\n0.png\n", "metadata.csv:2: fewer fields"),
        ("metadata.parquet", "PAR1 not really", "metadata.parquet: not a readable parquet"),
        ("metadata.jsonl", '{"file_name": "0.png", "text": "\udce9t\udce9"}\n', "metadata.jsonl:1: not UTF-8"),
        ("metadata.csv", "file_name,text\n0.png,\udce9t\udce9\n", "metadata.csv: not UTF-8"),
    ],
)
def test_an_unreadable_line_names_file_and_line(name: str, text: str, where: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(DataError) as caught:
        list_source(config(tmp_path))
    assert where in str(caught.value) and len(str(caught.value).splitlines()) <= 2


def test_missing_and_empty_folders_say_what_to_give_instead(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder at"):
        list_source(config(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="the folder is empty"):
        list_source(config(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no images .*notes\.txt"):
        list_source(config(tmp_path))
    with pytest.raises(ConfigError, match="is a file"):
        list_source(config(tmp_path / "notes.txt"))


def test_plain_webdataset_opens_our_shards(tmp_path: Path) -> None:
    import webdataset

    class_folders(tmp_path / "photos", "ab", 8)
    shard(config(tmp_path / "photos", val=0), tmp_path / "out")
    tars = sorted(str(p) for p in (tmp_path / "out").glob("*.tar"))

    seen = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg", "cls", "json"))

    ours = samples_of(tmp_path / "out")
    assert len(seen) == len(ours) == 16
    for image, label, record in seen:
        expected = ours[record["source"]]
        assert label == expected["cls"]
        np.testing.assert_array_equal(np.asarray(image), expected["jpg"])


def test_hugging_face_datasets_opens_our_shards_with_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = tmp_path / "photos"
    rows: list[dict[str, object]] = []
    for i in range(4):
        save(photo(i), source / f"{i}.png")
        sound(source / f"{i}.flac")
        rows.append({"file_name": f"{i}.png", "text": f"bird {i}", "audio": f"{i}.flac", "label": "ab"[i % 2]})
    write_table(source, "jsonl", rows)
    shard(config(source, val=0), tmp_path / "out")
    features = datasets.Features({
        "__key__": datasets.Value("string"), "__url__": datasets.Value("string"), "jpg": datasets.Image(),
        "cls": datasets.Value("int64"), "txt": datasets.Value("string"), "flac": datasets.Value("binary"),
        "json": {"source": datasets.Value("string"), "captions": [datasets.Value("string")]},
    })  # fmt: skip
    files = {"train": sorted(str(p) for p in (tmp_path / "out").glob("train-*.tar"))}

    opened = datasets.load_dataset(
        "webdataset", data_files=files, features=features, split="train", cache_dir=str(tmp_path / "cache")
    )

    assert sorted(opened["txt"]) == [f"bird {i}" for i in range(4)]
    for row in opened:
        samples, rate = soundfile.read(io.BytesIO(row["flac"]))
        assert rate == 16_000 and len(samples) == 1600 and row["jpg"].size[1] == 36
