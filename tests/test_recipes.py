"""Every recipe that ships loads, checks and says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.stages import STAGES
from pipeline.config import check, load_recipe
from tests import spawn

RECIPES = sorted((spawn.ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_opens_with_its_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.hub._is_cached", lambda hub_id: True)  # their encoders are the hub's
    configs = check(load_recipe(path), STAGES)

    assert set(configs) >= {"vqvae", "codes", "prior", "evaluation"}
    assert path.read_text().startswith(f"# tessera run {path.stem}")
    if path.stem == "letters":  # what the data of others need
        assert len(path.read_text().splitlines()) <= 25
    if path.stem in ("cub200", "cc12m", "vggsound"):  # 256 px and captions
        assert configs["codes"].conditions.text == "openai/clip-vit-large-patch14"


def test_a_stem_finds_the_recipe_that_ships(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # an empty folder: what is packaged must be found
    assert load_recipe("tiny").name == "tiny"
