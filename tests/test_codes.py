"""Codes: byte-identical however they are extracted, restartable, readable as shards, never of another tokenizer."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.images import encode_image
from data_prep.verify import verify
from pipeline.artifacts import fingerprint, write_manifest
from pipeline.errors import ConfigError, DataError, Stopped
from pipeline.samples import Sample, decode_npy, encode_json
from pipeline.shard_index import open_shards, write_dataset, write_shard
from pipeline.shards import open_batches, read_pass, read_samples
from pipeline.tracking import TrackingConfig
from pipeline.training_config import DataConfig
from stages.codes import extract as extraction
from stages.codes.config import PAIR, CodesConfig
from stages.codes.extract import Extractor, _all_of, code_type, extract
from stages.codes.picture import decoded
from stages.codes.read import CodesDecode, open_codes
from stages.codes.stage import STAGE, modalities_of
from stages.codes.views import Read, SampleReader
from stages.images import center_decode, picture_to_tensor
from stages.vqvae.load import load_autoencoder, save_autoencoder
from stages.vqvae.model import Autoencoder
from tests import spawn
from tests.source_folders import foreign_tar

SIZE = 32


def make_png(number: int, side: int = 36) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_sample(number: int) -> Sample:
    members = {"png": make_png(number), "cls": str(number % 3).encode(), "json": encode_json({"n": number})}
    return Sample(f"{number:06d}", members)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    plan = [("train-000000", range(5)), ("train-000001", range(5, 9)), ("val-000000", range(9, 12))]
    written = [write_shard(folder, name, name.split("-")[0], map(make_sample, keys)) for name, keys in plan]
    write_dataset(folder, written, {"classes": ["a", "b", "c"], "image_size": SIZE, "modalities": ["class", "image"]})
    return folder


def views(sample: Sample, variants: int, *, flips: bool) -> np.ndarray:
    return SampleReader(SIZE, variants, flips)(sample).views


def make_autoencoder(seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    model = Autoencoder(levels=(16, 8), codebook_sizes=(16, 32), code_widths=(4, 4), channels=8, blocks=1)
    return model.eval().requires_grad_(False)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return save_tokenizer(tmp_path / "vqvae")


def save_tokenizer(folder: Path, seed: int = 0) -> Path:
    save_autoencoder(make_autoencoder(seed), folder / "model", {"image_size": SIZE})
    write_manifest(folder, stage="vqvae", config={}, inputs={}, results={}, makes=("model",))
    return folder


def run(shards: Path, tokenizer: Path, out: Path, **config: Any) -> dict[str, Any]:
    return STAGE.run(
        CodesConfig(tracking=TrackingConfig(mode="disabled"), **config), {"shards": shards, "vqvae": tokenizer}, out
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tar", ".json")}


def test_codes_are_those_of_the_autoencoder_in_shards_like_the_images(
    shards: Path, tokenizer: Path, tmp_path: Path
) -> None:
    results = run(shards, tokenizer, tmp_path / "codes", batch_size=2)

    assert verify(tmp_path / "codes") == []
    source, codes = open_shards(shards), open_shards(tmp_path / "codes")
    model = make_autoencoder()
    for split in ("train", "val"):
        assert [s.name for s in codes.split(split)] == [s.name for s in source.split(split)]
        for coded, original in zip(codes.split(split), source.split(split), strict=True):
            pictures = next(read_pass([original], center_decode(SIZE), batch_size=10))["image"]
            expected = model.encode(picture_to_tensor(pictures))
            for i, (sample, before) in enumerate(zip(read_samples(coded), read_samples(original), strict=True)):
                assert sample.key == before.key
                assert (
                    sample.members["cls"] == before.members["cls"] and sample.members["json"] == before.members["json"]
                )
                for level in range(2):
                    stored = decode_npy(sample.members[f"level{level}.npy"])
                    assert stored.dtype == np.uint16
                    assert np.array_equal(stored[0], expected[level][i].numpy())
    assert results["samples"] == {"train": 9, "val": 3} and results["tokenizer"] == fingerprint(tokenizer)
    assert codes.info["levels"][1] == {"height": 4, "width": 4, "codebook_size": 32, "factor": 8}
    assert codes.info["classes"] == ["a", "b", "c"] and codes.info["image_size"] == SIZE


def test_batch_size_processes_and_restarts_change_no_byte(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    settings = {"variants": 3, "latents": "full"}
    run(shards, tokenizer, tmp_path / "once", batch_size=64, **settings)
    expected = bytes_of(tmp_path / "once")

    def extractor(out: Path) -> Extractor:
        cfg = CodesConfig(batch_size=64, **settings)
        return Extractor(make_autoencoder(), SIZE, cfg, True, out, fingerprint(tokenizer))

    for rank in (2, 1, 0):  # the first process last: it waits for the others
        extract(extractor(tmp_path / "split"), open_shards(shards), rank=rank, world=3, report=lambda n: None)
    assert bytes_of(tmp_path / "split") == expected

    (tmp_path / "once" / "dataset.json").unlink()
    (tmp_path / "once" / "train-000001.json").unlink()  # killed between tar and sidecar
    damaged = tmp_path / "once" / "train-000000.tar"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (tmp_path / "once" / ".train-000000.tar.part-99").write_bytes(b"of a killed process")
    kept = (tmp_path / "once" / "val-000000.tar").stat().st_mtime_ns
    run(shards, tokenizer, tmp_path / "once", batch_size=64, **settings)
    assert bytes_of(tmp_path / "once") == expected
    assert (tmp_path / "once" / "val-000000.tar").stat().st_mtime_ns == kept
    assert not list((tmp_path / "once").glob(".*"))


def test_two_processes_make_what_one_makes(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    run(shards, tokenizer, tmp_path / "one")
    spawn.run("tests.test_codes", [str(shards), str(tokenizer), str(tmp_path / "two")], 2)
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")


def test_views_are_the_centre_then_random_crops_every_other_mirrored() -> None:
    sample = make_sample(3)
    plain, mirrored = views(sample, 5, flips=False), views(sample, 5, flips=True)
    centre = center_decode(SIZE)(sample, None)["image"]  # type: ignore[arg-type]

    assert plain.shape == (5, 3, SIZE, SIZE) and np.array_equal(plain[0], centre)
    assert all(np.array_equal(mirrored[i], plain[i][..., ::-1] if i % 2 else plain[i]) for i in range(5))
    assert len({view.tobytes() for view in plain}) >= 4
    assert np.array_equal(views(sample, 2, flips=False), plain[:2])


def test_flips_are_off_by_themselves_where_there_are_captions(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    run(shards, tokenizer, tmp_path / "mirrored", variants=2)
    info = open_shards(shards).info
    listed = [s for split in open_shards(shards).splits.values() for s in split]
    write_dataset(shards, listed, {**info, "modalities": ["image", "text"]})
    run(shards, tokenizer, tmp_path / "plain", variants=2)
    assert open_shards(tmp_path / "mirrored").info["flips"] is True
    assert open_shards(tmp_path / "plain").info["flips"] is False


def test_latent_statistics_are_those_of_the_whole_train_split(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    run(shards, tokenizer, tmp_path / "codes", batch_size=2, latents="full")
    model = make_autoencoder()
    batches = read_pass(open_shards(shards).split("train"), center_decode(SIZE), batch_size=100)
    levels = model.quantize(picture_to_tensor(next(batches)["image"]))
    for level, stored in zip(levels, open_shards(tmp_path / "codes").info["latents"], strict=True):
        z, q = level.before.double(), level.latents.double()
        assert stored["mean"] == pytest.approx(z.mean((0, 2, 3)).tolist(), abs=1e-5)
        assert stored["std"] == pytest.approx(z.std((0, 2, 3), correction=0).tolist(), abs=1e-5)
        assert stored["error"] == pytest.approx((z - q).square().mean((0, 2, 3)).sqrt().tolist(), abs=1e-5)
    first = next(iter(read_samples(open_shards(tmp_path / "codes").split("train")[0])))
    kept = decode_npy(first.members["latent1.npy"])
    assert kept.dtype == np.float16 and np.allclose(kept[0], levels[1].before[0].numpy(), atol=2e-3)


def test_the_batch_is_halved_when_memory_runs_out(
    shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shards, tokenizer, tmp_path / "plenty", batch_size=8)
    asked: list[int] = []
    whole = Extractor._encode_once

    def scarce(self: Extractor, pictures: np.ndarray) -> Any:
        asked.append(len(pictures))
        if len(pictures) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return whole(self, pictures)

    monkeypatch.setattr(Extractor, "_encode_once", scarce)
    run(shards, tokenizer, tmp_path / "scarce", batch_size=8)
    assert asked[:3] == [5, 4, 2] and max(asked[3:]) == 2
    for shard in open_shards(tmp_path / "plenty").split("train"):
        name = f"{shard.name}.tar"
        assert (tmp_path / "plenty" / name).read_bytes() == (tmp_path / "scarce" / name).read_bytes()


def test_unreadable_pictures_are_rejects_not_the_end(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    samples = [make_sample(0), Sample("000001", {"png": b"no picture", "cls": b"1"}), make_sample(2)]
    write_dataset(folder, [write_shard(folder, "train-000000", "train", samples)], {"image_size": SIZE})
    results = run(folder, tokenizer, tmp_path / "codes")
    assert results["samples"] == {"train": 2} and results["rejects"] == {"unreadable": 1}
    assert verify(tmp_path / "codes") == []


def test_codes_of_another_tokenizer_are_refused(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    other = save_tokenizer(tmp_path / "other", seed=1)
    run(shards, tokenizer, tmp_path / "codes")
    assert open_codes(tmp_path / "codes", tokenizer).grids == [(2, 2), (4, 4)]
    with pytest.raises(ConfigError, match="another tokenizer"):
        open_codes(tmp_path / "codes", other)
    with pytest.raises(ConfigError, match=r"another tokenizer.*\n.*--redo codes"):
        run(shards, other, tmp_path / "codes")
    with pytest.raises(DataError, match="holds no codes"):
        open_codes(shards)


def test_an_autoencoder_without_codes_is_refused(shards: Path, tmp_path: Path) -> None:
    model = Autoencoder(levels=(16, 8), bottleneck="gaussian", codebook_sizes=(), code_widths=(4, 4), channels=8)
    save_autoencoder(model, tmp_path / "vae" / "model", {"image_size": SIZE})
    write_manifest(tmp_path / "vae", stage="vqvae", config={}, inputs={}, results={}, makes=("model",))
    with pytest.raises(ConfigError, match=r"gaussian.*\nSet vqvae\.bottleneck=vq"):
        run(shards, tmp_path / "vae", tmp_path / "codes")


def test_the_first_process_does_not_wait_forever(
    shards: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "POLL_SECONDS", 0.01)
    cfg = replace(CodesConfig(), timeout_seconds=0)
    extractor = Extractor(make_autoencoder(), SIZE, cfg, False, tmp_path / "codes", "abc")
    with pytest.raises(DataError, match="another process"):
        extract(extractor, open_shards(shards), rank=0, world=2, report=lambda n: None)


def test_codes_train_through_the_reader_and_val_takes_the_centre(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    run(shards, tokenizer, tmp_path / "codes", variants=4)
    codes = open_codes(tmp_path / "codes", tokenizer)
    data = DataConfig(global_batch=4, lanes=2, shuffle_shards=1)
    batch = next(iter(open_batches(codes.shards.split("train"), CodesDecode(2, any_view=True), data, seed=0)))[0]
    assert batch["level0"].shape == (4, 4) and batch["level1"].shape == (4, 16) and batch["level1"].dtype == torch.int32
    assert batch["label"].tolist() == [int(key) % 3 for key in batch["key"]]

    centre = next(read_pass(codes.shards.split("val"), CodesDecode(2), batch_size=3))
    for i, sample in enumerate(read_samples(codes.shards.split("val")[0])):
        assert np.array_equal(centre["level1"][i].numpy(), decode_npy(sample.members["level1.npy"])[0].ravel())


def test_an_unlabelled_sample_has_label_minus_one_and_a_missing_level_is_told() -> None:
    level = {"level0.npy": encode_codes(np.zeros((1, 2, 2), np.uint16))}
    assert CodesDecode(1)(Sample("1", level), None)["label"] == -1  # type: ignore[arg-type]
    with pytest.raises(DataError, match="level 1"):
        CodesDecode(2)(Sample("1", level), None)  # type: ignore[arg-type]


def encode_codes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_the_smallest_type_holds_the_largest_code() -> None:
    assert code_type(65_536) is np.uint16 and code_type(65_537) is np.uint32


if __name__ == "__main__":
    import sys

    source, vqvae, out = map(Path, sys.argv[1:])
    run(source, vqvae, out)


def test_what_only_sharding_takes_in_of_tars_made_by_others_is_said(
    shards: Path, tokenizer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = {"a.png": make_png(0), "a.cls": b"finch", "a.mp3": b"", "a.txt": b"a bird"}
    foreign = foreign_tar(tmp_path / "others" / "set-0000.tar", members).parent
    made = run(foreign, tokenizer, tmp_path / "made")
    assert made["samples"] == {"train": 1}
    assert "others: tars made by others are read as they are, and .cls, .mp3 in them is passed over" in caplog.text
    assert f"tessera shard {foreign} FOLDER" in caplog.text
    (row,) = read_pass(open_codes(tmp_path / "made").shards.split("train"), CodesDecode(2), batch_size=1)
    assert row["label"].tolist() == [-1]  # a name, with no list of names to number it by
    caplog.clear()
    run(shards, tokenizer, tmp_path / "ours")
    assert "passed over" not in caplog.text


def test_the_picture_shows_codes_under_their_own_pictures(tokenizer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    whole = [make_sample(i) for i in range(4)]
    write_dataset(folder, [write_shard(folder, "train-000000", "train", whole)], {"image_size": SIZE})
    run(folder, tokenizer, tmp_path / "codes")
    model, _ = load_autoencoder(tokenizer)
    source = open_shards(folder)
    both = decoded(source, tmp_path / "codes", model, SIZE)["decoded"]
    coded = list(read_samples(open_shards(tmp_path / "codes").split("train")[0]))
    less = tmp_path / "less"  # as where the second one's caption was damaged
    less.mkdir()
    write_dataset(less, [write_shard(less, "train-000000", "train", [coded[0], *coded[2:]])], {"image_size": SIZE})
    three = decoded(source, less, model, SIZE)["decoded"]
    width = both.shape[1] // 4
    assert three.shape[1] < both.shape[1]
    assert np.array_equal(three[:, :SIZE], both[:, :SIZE]) and np.array_equal(three[:, -SIZE:], both[:, -SIZE:])
    assert width >= SIZE


def test_the_source_of_a_pair_is_cut_as_its_picture(tmp_path: Path) -> None:
    picture = (np.indices((36, 40)).sum(axis=0) * 3).astype(np.uint8)[..., None].repeat(3, axis=2)
    larger = np.asarray(Image.fromarray(picture).resize((160, 144), Image.Resampling.NEAREST))
    other = np.zeros((40, 90, 3), np.uint8)  # of another shape: it keeps its own
    reader = SampleReader(SIZE, 3, False)

    def read(source: np.ndarray) -> Read:
        return reader(Sample("a", {"png": encode_image(picture, "png", 9), PAIR: encode_image(source, "png", 9)}))

    assert picture.shape[0] > SIZE  # there is room to cut elsewhere
    one = read(larger)
    assert np.abs(one.sources["source"].astype(int) - one.views).max() <= 12
    assert read(other).error == "" and read(other).sources["source"].max() == 0


def test_pairs_that_only_some_samples_bring_are_heard(tokenizer: Path, tmp_path: Path) -> None:
    members = {"a.png": make_png(0), "b.png": make_png(1), "b.source.png": make_png(2)}
    foreign = foreign_tar(tmp_path / "others" / "set-0000.tar", members).parent
    made = run(foreign, tokenizer, tmp_path / "made")
    assert made["conditions"]["image"] == {"kinds": ["source"]}


def test_tars_of_others_may_lie_in_a_folder_for_each_split(tokenizer: Path, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val")):
        foreign_tar(
            tmp_path / "others" / split / "0000.tar", {"a.png": make_png(number), f"{'b' * 90}.png": make_png(7)}
        )
    made = run(tmp_path / "others", tokenizer, tmp_path / "made", flips="auto")
    assert made["samples"] == {"train": 1, "val": 1}
    (reject,) = json.loads((tmp_path / "made" / "val" / "0000.json").read_text())["rejects"]
    assert reject["source"] == "b" * 90 and reject["detail"].startswith("its name is too long for a tar")
    before = bytes_of(tmp_path / "made" / "train")
    (tmp_path / "made" / "train" / "0000.tar").unlink()
    run(tmp_path / "others", tokenizer, tmp_path / "made", flips="auto")
    assert bytes_of(tmp_path / "made" / "train") == before != {}
    assert verify(tmp_path / "made") == [], "both splits number their samples alike"


def test_the_split_of_a_tar_of_others_is_told_from_the_folder_that_is_opened(tmp_path: Path) -> None:
    tars = foreign_tar(tmp_path / "val" / "0000.tar", {"a.png": make_png(0)}).parent
    for folder, split in ((tars, "train"), (tmp_path, "val"), (tars, "train")):
        assert list(open_shards(folder).splits) == [split]


def test_leftovers_of_killed_processes_go_and_names_are_as_long_as_fits(tokenizer: Path, tmp_path: Path) -> None:
    for name in ("train/0000", "val/set.val-0001"):
        foreign_tar(
            tmp_path / "others" / f"{name}.tar", {f"{'b' * 89}.png": make_png(7), f"{'c' * 90}.png": make_png(1)}
        )
    left = [tmp_path / "made" / "train" / ".0000.tar.part-99", tmp_path / "made" / "val" / ".set.val-0001.tar.part-9"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of a killed process")
    assert run(tmp_path / "others", tokenizer, tmp_path / "made", flips="auto")["samples"] == {"train": 1, "val": 1}
    assert not any(path.exists() for path in left)
    (reject,) = json.loads((tmp_path / "made" / "train" / "0000.json").read_text())["rejects"]
    assert reject["source"] == "c" * 90 and reject["detail"].startswith("its name is too long for a tar")


def test_what_tars_of_others_hold_is_looked_up(tmp_path: Path) -> None:
    def held(members: dict[str, bytes]) -> list[str]:
        return modalities_of(
            open_shards(foreign_tar(tmp_path / str(len(list(tmp_path.iterdir()))) / "0.tar", members).parent)
        )

    picture = {"a.png": make_png(0)}
    assert held(picture) == held(picture | {"a.json": b'{"n": 1}', "a.cls": b"3"}) == []
    assert held(picture | {"a.json": b'{"caption": "a bird"}'}) == held(picture | {"a.txt": b"a bird"}) == ["text"]
    assert held(picture | {"b.png": make_png(1), "b.flac": b"", "b.source.png": b""}) == ["audio", "source"]
    assert held(picture | {"a.source.jpg": b"", "a.json": b'{"caption": '}) == []
    assert held(picture | {"a.json": b"\xff", "b.json": b'{"caption": "a bird"}', "b.png": make_png(1)}) == ["text"]


def test_the_first_process_waits_as_long_as_others_finish_any_shard(tmp_path: Path) -> None:
    names, began = ["a", "b", "c"], time.monotonic()

    def come(name: str) -> bool:  # the first one last: each other one is news
        since = time.monotonic() - began
        for other, seconds in (("c", 0.2), ("b", 0.8), ("a", 1.4)):
            if since > seconds:
                (tmp_path / f"{other}.json").touch()
        return (tmp_path / f"{name}.json").is_file()

    extractor: Any = SimpleNamespace(
        out=tmp_path, cfg=SimpleNamespace(timeout_seconds=1), finished=lambda shard: shard if come(shard.name) else None
    )
    shards: Any = [SimpleNamespace(name=name) for name in names]
    assert _all_of(extractor, shards) == shards
    began = time.monotonic()
    with pytest.raises(DataError, match=r"d.tar did not come from another process within 1 s"):
        _all_of(extractor, [*shards, SimpleNamespace(name="d")])  # type: ignore[list-item]
    assert time.monotonic() - began < 1.9, "those that were there are no news"


def test_a_stop_file_ends_the_work_and_the_same_call_goes_on(shards: Path, tokenizer: Path, tmp_path: Path) -> None:
    run(shards, tokenizer, tmp_path / "whole")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "STOP").touch()
    with pytest.raises(Stopped):
        run(shards, tokenizer, tmp_path / "out")
    run(shards, tokenizer, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
