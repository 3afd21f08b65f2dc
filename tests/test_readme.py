"""What the README tells the reader to type works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from data_prep import shard
from data_prep.config import ShardsConfig
from launchers.cli import build_parser
from launchers.commands.sample import rows_of
from launchers.stages import STAGES
from pipeline.config import check, load_recipe
from tests import spawn

README = (spawn.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_for_other_readers_runs_as_printed(tmp_path: Path) -> None:
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "load_dataset" in block]
    shard(ShardsConfig(source="birds", size=32, count=8, val=0, workers=1), tmp_path / "runs" / "demo" / "shards")
    check_it = """
row = birds["train"][0]
assert row["flac"][:4] == b"fLaC" and row["jpg"][:2] == b"\\xff\\xd8" and "attributes" in row["json"] and row["txt"]
assert len(list(samples)) == len(birds["train"]) == 8
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code + check_it],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_recipe_for_ones_own_photos_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"cat > photos.yaml <<'YAML'\n(.*?)YAML\n", README, re.DOTALL)
    (tmp_path / "photos.yaml").write_text(text)

    configs = check(load_recipe(tmp_path / "photos.yaml"), STAGES)

    assert list(configs) == ["shards", "vqvae", "codes", "prior", "evaluation"]


def test_the_recipe_for_captions_and_sounds_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"cat > sounds.yaml <<'YAML'\n(.*?)YAML\n", README, re.DOTALL)
    (tmp_path / "sounds.yaml").write_text(text)

    configs = check(load_recipe(tmp_path / "sounds.yaml"), STAGES)

    assert list(configs) == ["shards", "align", "vqvae", "codes", "prior", "evaluation"]


def test_the_lines_that_paint_are_lines_of_the_command() -> None:
    lines = re.findall(r"^tessera (sample RUN [^\n]*?)(?: {4}.*)?$", README, re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        assert rows_of(build_parser().parse_args(shlex.split(line))), line


def test_the_accelerate_lines_name_processes_their_recipe_can_take() -> None:
    lines = re.findall(r"accelerate launch .*--num_processes (\d+) -m launchers.train (\w+) --config (\w+)", README)
    assert lines
    for count, stage, recipe in lines:
        assert check(load_recipe(recipe), STAGES)[stage].data.lanes % int(count) == 0
