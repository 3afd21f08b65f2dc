"""Data in which samples lack this or that, and pairs of pictures: align, codes, a prior and what it paints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.birds import sample as bird
from data_prep.images import encode_image
from launchers.cli import main
from pipeline.artifacts import write_manifest
from pipeline.config import load_recipe
from pipeline.samples import Sample, decode_image, encode_json
from pipeline.shard_index import open_shards, write_dataset, write_shard
from pipeline.shards import read_samples
from stages.codes.config import CodesConfig
from stages.codes.read import open_codes
from stages.codes.stage import check_data
from stages.conditioning.sources import grey
from stages.generate import Painter
from tests import tiny_encoders

SIZE, COUNT = 32, 36
STAGES = """
tracking: {mode: disabled}
use: {shards: SHARDS}
align: {image_side: 32, embedding: 32, text: {width: 32, layers: 1}, image: {width: 32, layers: 1},
        audio: {width: 32, layers: 1}, vocabulary: 700, audio_seconds: 0.5, data: {global_batch: 12}, loop: {steps: 2}}
vqvae: {levels: [16, 8], codebook_sizes: [16, 32], channels: 8, data: {global_batch: 12}, loop: {steps: 2}}
codes: {}
prior: {width: 32, depth: 1, heads: 2, condition_layers: 1, data: {global_batch: 12}, loop: {steps: 2}}
"""


def write(folder: Path, choose: Callable[[int, Sample], dict[str, bytes]], modalities: list[str]) -> Path:
    """Shards of birds, of each what `choose` leaves."""
    folder.mkdir(parents=True)

    def some(first: int, last: int) -> Iterator[Sample]:
        for index in range(first, last):
            whole = bird(0, index, SIZE)
            yield Sample(f"{index:06d}", choose(index, whole))

    plan = [("train-000000", 0, 12), ("train-000001", 12, 24), ("val-000000", 24, COUNT)]
    written = [write_shard(folder, name, name.partition("-")[0], some(a, b)) for name, a, b in plan]
    write_dataset(folder, written, {"classes": [], "image_size": SIZE, "modalities": modalities})
    return folder


def run(folder: Path, shards: Path, *more: str) -> Path:
    recipe = folder / "mixed.yaml"
    recipe.write_text(STAGES.replace("SHARDS", str(shards)))
    assert main(["run", str(recipe), "--runs", str(folder), *more]) == 0
    return folder / "mixed"


def lacking(index: int, whole: Sample) -> dict[str, bytes]:
    """The picture; a caption in two of three, a sound in every other, a grey source in one of four."""
    kept = {"png": whole.members["png"]}
    kept |= {"txt": whole.members["txt"]} if index % 3 else {}
    kept |= {"flac": whole.members["flac"]} if index % 2 else {}
    if index % 4 == 0:
        kept["source.png"] = encode_image(grey(decode_image(whole.members["png"])), "png", 95)
    return kept | {"json": encode_json({"source": f"birds/{index}"})}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    return run(folder, write(folder / "shards", lacking, ["image", "text", "audio", "source"]))


def test_a_prior_of_samples_that_lack_this_or_that_paints_from_each(mixed: Path) -> None:
    painter = Painter.load(mixed, device="cpu")
    assert painter.listens == ["audio", "image", "text"]
    picture = np.full((SIZE, SIZE, 3), 90, np.uint8)
    sound = (np.zeros((1, 8000), np.float32) + 0.1, 16_000)
    for given in ({"text": "a red bird"}, {"audio": sound}, {"image": picture, "as_": "picture"}, {}):
        assert painter(n=1, **given)[0].size == (SIZE, SIZE)


def test_who_lacks_a_condition_has_none_of_it_in_the_codes(mixed: Path) -> None:
    for shard in open_shards(mixed / "codes").split("train"):
        for one in read_samples(shard):
            index = int(json.loads(one.members["json"])["source"].rpartition("/")[2])
            assert ("text.npy" in one.members) == bool(index % 3)
            assert ("audio.npy" in one.members) == bool(index % 2)
            assert any("source" in name for name in one.members) == (index % 4 == 0)


def test_a_condition_that_no_sample_has_is_not_listened_to(
    mixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in tars made by others, of which nobody knows what they hold; what img2dataset writes is read."""

    def captioned(index: int, whole: Sample) -> dict[str, bytes]:
        caption = f"bird {index} " * (100 if index == 7 else 1)
        return {"png": whole.members["png"], "json": encode_json({"caption": caption})}

    shards = write(tmp_path / "shards", captioned, ["image", "text", "audio"])
    used = f"use: {{shards: {shards}, align: {mixed / 'align'}, vqvae: {mixed / 'vqvae'}}}"
    (tmp_path / "few.yaml").write_text(f"tracking: {{mode: disabled}}\n{used}\ncodes: {{}}\n")
    assert main(["run", str(tmp_path / "few.yaml"), "--runs", str(tmp_path)]) == 0
    assert set(open_codes(tmp_path / "few" / "codes").conditions) == {"text"}
    assert "no sample has any audio that can be read" in caplog.text
    assert "1 of 36 captions are longer than their encoder takes, and cut" in caplog.text


@pytest.mark.parametrize("by_a_stage", [True, False], ids=["by a stage", "by tessera shard"])
def test_an_encoder_of_what_the_data_lacks_is_refused_before_anything_trains(
    by_a_stage: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = write(tmp_path / "shards", lacking, ["image", "text", "source"])
    if by_a_stage:
        write_manifest(shards, stage="shards", config={}, inputs={}, results={}, makes=["dataset.json"])
    own = tiny_encoders.clap(tmp_path / "own")
    recipe = STAGES.replace("SHARDS", str(shards)).replace("codes: {}", f"codes: {{conditions: {{audio: {own}}}}}")
    (tmp_path / "deaf.yaml").write_text(recipe)
    assert main(["run", str(tmp_path / "deaf.yaml"), "--runs", str(tmp_path)]) == 2
    assert f"codes: codes.conditions.audio={own}, but there is no audio in the shards" in capsys.readouterr().err
    assert not (tmp_path / "deaf" / "align").exists()

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    large = json.loads((shards / "dataset.json").read_text()) | {"image_size": 256}
    (shards / "dataset.json").write_text(json.dumps(large))
    aligned = load_recipe(tmp_path / "deaf.yaml")
    alone = replace(aligned, sections={"codes": {}})
    with pytest.raises(ValueError, match="openai/clip-vit-large-patch14 is not in the local cache"):
        check_data(CodesConfig(), alone, shards)
    check_data(CodesConfig(), aligned, shards)


def test_tars_of_others_are_asked_for_what_they_hold_before_anything_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(index: int, whole: Sample) -> dict[str, bytes]:
        return {name: value for name, value in lacking(index, whole).items() if name != "flac"}

    shards = write(tmp_path / "tars", silent, [])
    for path in [shards / "dataset.json", *shards.glob("*-00000*.json")]:
        path.unlink()
    own = tiny_encoders.clap(tmp_path / "own")
    recipe = STAGES.replace("SHARDS", str(shards)).replace("codes: {}", f"codes: {{conditions: {{audio: {own}}}}}")
    (tmp_path / "others.yaml").write_text(recipe)
    line = ["run", str(tmp_path / "others.yaml"), "--runs", str(tmp_path)]
    assert main(line) == 2
    assert "does not say its image size (shards made by others). Set it:  vqvae.image" in capsys.readouterr().err
    assert main([*line, f"vqvae.image_size={SIZE}"]) == 2
    assert f"codes: codes.conditions.audio={own}, but there is no audio in the shards" in capsys.readouterr().err
    assert not (tmp_path / "others" / "align").exists()


def test_too_few_samples_for_a_batch_are_refused_once_for_every_stage(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = write(tmp_path / "shards", lacking, ["image", "text"])  # 24 of them in train
    larger = STAGES.replace("SHARDS", str(shards)).replace("global_batch: 12", "global_batch: 36")
    (tmp_path / "few.yaml").write_text(larger)
    line = ["run", str(tmp_path / "few.yaml"), "--runs", str(tmp_path)]
    assert main([*line, "--dry-run"]) == main(line) == 2
    said = capsys.readouterr().err
    assert f"{shards} holds 24 samples to train on, fewer than one global batch" in said
    advice = "align.data.global_batch=24 vqvae.data.global_batch=24 prior.data.global_batch=24"
    assert said.count(advice) == 2 and not (tmp_path / "few" / "align").exists()
    assert main([*line, "--dry-run", *advice.split()]) == 0
    (shards / "dataset.json").unlink()  # as tars of others
    assert main([*line, "--dry-run", f"vqvae.image_size={SIZE}"]) == 2 and advice in capsys.readouterr().err
    lent = (
        f"use: {{shards: {shards}, vqvae: {mixed / 'vqvae'}, codes: {mixed / 'codes'}}}\ntracking: {{mode: disabled}}\n"
    )
    (tmp_path / "lent.yaml").write_text(lent + "prior: {data: {global_batch: 36}}\nevaluation: {}\n")
    assert main(["run", str(tmp_path / "lent.yaml"), "--runs", str(tmp_path), "--dry-run"]) == 0, "it reads codes alone"


def test_a_prior_of_codes_that_another_run_lent_is_asked_by_what_that_run_heard(mixed: Path, tmp_path: Path) -> None:
    used = f"use: {{vqvae: {mixed / 'vqvae'}, codes: {mixed / 'codes'}}}"
    prior = "prior: {width: 32, depth: 1, heads: 2, data: {global_batch: 12}, loop: {steps: 2}}"
    (tmp_path / "lent.yaml").write_text(f"tracking: {{mode: disabled}}\n{used}\n{prior}\n")
    assert main(["run", str(tmp_path / "lent.yaml"), "--runs", str(tmp_path)]) == 0
    painter = Painter.load(tmp_path / "lent", device="cpu")
    assert painter.space is not None
    assert painter(text="a red bird", candidates=2)[0].size == (SIZE, SIZE)


def test_codes_of_conditions_killed_between_shards_come_out_the_same(mixed: Path) -> None:
    codes = mixed / "codes"
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in codes.glob("*-00000*.*")}
    assert len(before) == 6
    for name in ("manifest.json", "train-000001.json", "val-000000.tar", "val-000000.json"):
        (codes / name).unlink()
    (codes / "train-000001.tar").write_bytes(b"half of it")
    run(mixed.parent, mixed.parent / "shards", "--until", "codes")
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in codes.glob("*-00000*.*")} == before


@pytest.mark.parametrize(("kept", "pairs"), [("txt", "image_to_text"), ("flac", "audio_to_image")])
def test_align_takes_what_pairs_there_are(kept: str, pairs: str, tmp_path: Path) -> None:
    shards = write(
        tmp_path / "shards",
        lambda index, whole: {name: whole.members[name] for name in ("png", kept)},
        ["image", {"txt": "text", "flac": "audio"}[kept]],
    )
    align = run(tmp_path, shards, "--until", "align") / "align"
    results = json.loads((align / "manifest.json").read_text())["results"]
    back = "_to_".join(reversed(pairs.split("_to_")))
    assert {name for name in results if "_R@" in name} == {f"{way}_R@{k}" for way in (pairs, back) for k in (1, 5)}
    assert not any("text" in name for name in results if "_R@" in name) or kept == "txt"
    assert (align / "model" / "audio").is_dir() == (kept == "flac")
