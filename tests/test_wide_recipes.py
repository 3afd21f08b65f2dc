"""The recipes for data sets of others, whole: their own layouts in miniature, small models, tiny encoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from launchers.cli import main
from tests import tiny_encoders
from tests.layout_folders import cc12m, cub200, imagenet, vggsound

Make = Callable[[Path], Path]
SMALL = [
    "shards.size=32", "shards.workers=1", "vqvae.levels=[8, 4]", "vqvae.codebook_sizes=[8, 16]", "vqvae.channels=8",
    "vqvae.data={global_batch: 2, lanes: 1}", "vqvae.loop={steps: 2}", "codes.variants=2", "prior.width=16",
    "prior.depth=1", "prior.heads=2", "prior.data={global_batch: 2, lanes: 1}", "prior.loop={steps: 2}",
    "evaluation={samples: 2, obedience: 2, reconstructions: 2, probe_steps: 2}", "tracking.mode=disabled",
]  # fmt: skip
RECIPES: dict[str, tuple[Make, list[str], list[str]]] = {
    "cub200": (cub200, ["class", "text"], ["--text", "a black bird", "--class", "Indigo Bunting"]),
    "imagenet": (partial(imagenet, packed=True), ["class"], ["--class", "tench"]),
    "cc12m": (partial(cc12m, tars=2), ["text"], ["--text", "caption"]),
    "vggsound": (vggsound, ["audio", "class", "text"], ["--text", "people marching", "--guidance", "text=2"]),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_runs_on_its_data_sets_layout_in_miniature(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, listens, asked = RECIPES[name]
    encoders = {"text": str(tiny_encoders.clip(tmp_path / "clip")), "audio": str(tiny_encoders.clap(tmp_path / "clap"))}
    own = [f"shards.source={make(tmp_path / 'data')}"]
    own += [f"codes.conditions.{kind}={where}" for kind, where in encoders.items() if kind in listens]
    own += ["shards.val=0.34"] if name == "cc12m" else []
    assert main(["run", name, "--runs", str(tmp_path), *SMALL, *own]) == 0, capsys.readouterr().err
    about = json.loads((tmp_path / name / "prior" / "model" / "config.json").read_text())
    assert sorted(about["conditions"]) == listens
    assert main(["sample", str(tmp_path / name), *asked, "-n", "1", "--device", "cpu"]) == 0
