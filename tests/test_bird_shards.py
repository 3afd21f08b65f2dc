"""Birds as a source: exact counts, and held-out pairs only in `unseen`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep import shard
from data_prep.birds import SPECIES, describe, is_unseen
from data_prep.verify import verify
from pipeline.errors import ConfigError
from pipeline.shard_index import open_shards
from tests.test_sharding import config, files_of, samples_of


def test_held_out_pairs_are_in_unseen_and_nowhere_else(tmp_path: Path) -> None:
    results = shard(config("birds", count=60, val=0.2, shard_samples=30, workers=2), tmp_path)

    samples = samples_of(tmp_path)
    assert verify(tmp_path) == [] and open_shards(tmp_path).info["classes"] == list(SPECIES)
    counts = {name: split["samples"] for name, split in results["splits"].items()}
    assert counts["train"] + counts["val"] == 60 and counts["unseen"] == 12
    for source, sample in samples.items():
        scene = describe(0, int(source.rpartition("/")[2]))
        assert is_unseen(scene) == (sample["split"] == "unseen")
        assert sample["cls"] == list(SPECIES).index(scene.species)
        assert sample["jpg"].shape == (36, 36, 3)  # type: ignore[attr-defined]


def test_birds_are_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    for workers in (1, 3):
        shard(config("birds", count=20, workers=workers), tmp_path / str(workers))
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")


def test_birds_sharded_anew_say_what_is_named_and_spoken_as_before(tmp_path: Path) -> None:
    shard(config("birds", count=20), tmp_path / "first")
    with_speech = samples_of(tmp_path / "first")
    shard(config(tmp_path / "first", size=16), tmp_path / "second")
    again = samples_of(tmp_path / "second")
    assert len(again) == len(with_speech)
    first = {tuple(s["json"]["captions"]): s["json"] for s in with_speech.values()}  # type: ignore[index]
    for sample in again.values():
        record = sample["json"]
        assert isinstance(record, dict)
        old = first[tuple(record["captions"])]
        assert record["named"] == old["named"] and record["attributes"] == old["attributes"]
        assert "named" not in record.get("metadata", {})


def test_birds_of_few_species_and_colours_are_the_same_birds_with_classes_of_their_own(tmp_path: Path) -> None:
    few = config("birds", count=20, val=0.2, pairs=0.5, species=("owl", "robin"), colours=("red", "white", "blue"))
    results = shard(few, tmp_path)

    assert open_shards(tmp_path).info["classes"] == ["robin", "owl"]
    counts = {name: split["samples"] for name, split in results["splits"].items()}
    assert counts["train"] + counts["val"] == 20 and counts["unseen"] == 4
    assert {sample["cls"] for sample in samples_of(tmp_path).values()} == {0, 1}
    for source, sample in samples_of(tmp_path).items():
        scene = describe(0, int(source.rpartition("/")[2]), 0.5)
        assert sample["cls"] == ["robin", "owl"].index(scene.species)
        assert {colour for bird in scene.birds for colour in (bird.wing, bird.body)} <= {"red", "white", "blue"}


def test_a_split_unseen_there_can_be_none_of_is_left_out(tmp_path: Path) -> None:
    results = shard(config("birds", count=6, species=("duck",), colours=("red", "blue"), pairs=0.0), tmp_path)
    assert "unseen" not in results["splits"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"species": ("penguin",)}, "species knows robin, .*; got penguin"),
        ({"colours": ("red", "pink")}, "colours knows red, .*; got pink"),
        ({"colours": ("red",)}, "colours are two or more, .*; got red alone"),
        ({"species": ("robin", "wren"), "colours": ("red", "green")}, r"kept out of train for robin \("),
        ({"species": ("robin",), "colours": ("red", "blue"), "pairs": 1.0}, r"kept out of train for robin \("),
    ],
)
def test_birds_that_there_are_none_of_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config("birds", count=4, **settings)


def test_birds_that_are_too_rare_to_look_for_are_refused(tmp_path: Path) -> None:
    rare = config("birds", count=100, species=("owl",), colours=("red", "black"), pairs=1.0)
    with pytest.raises(ConfigError, match=r"of 20000 drawn scenes \d are of the species and colours asked for"):
        shard(rare, tmp_path)


def test_a_choice_of_birds_is_one_setting_however_it_is_written() -> None:
    assert config("birds", species=("owl", "robin")) == config("birds", species=("robin", "owl"))
    assert config("birds", species=SPECIES) == config("birds")
