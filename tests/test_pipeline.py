"""The whole pipeline through the command line, on a recipe of seconds: every stage, every command a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import spawn

RECIPE = """
seed: 1
tracking: {mode: offline}
shards: {source: birds, size: 32, count: 120, val: 0.4, shard_samples: 40, with_sounds: false, workers: 1}
vqvae:
  levels: [8, 4]
  codebook_sizes: [16, 32]
  channels: 16
  data: {global_batch: 24}
  loop: {steps: 12, log_every: 4, eval_every: 12, paint_every: 12}
codes: {}
prior:
  width: 32
  depth: 2
  heads: 2
  data: {global_batch: 24}
  loop: {steps: 12, log_every: 4, eval_every: 12, paint_every: 12}
evaluation: {samples: 16, reconstructions: 16, probe_steps: 12}
"""


def tessera(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(spawn.ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "launchers.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe has run."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "small.yaml").write_text(RECIPE)
    done = tessera("run", "small.yaml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("Open ")
    assert Path(folder / done.stdout.splitlines()[-1].removeprefix("Open ")).is_file()
    (folder / "said.txt").write_text(done.stdout)
    return folder


def manifest(home: Path, stage: str) -> dict[str, object]:
    return json.loads((home / "runs" / "small" / stage / "manifest.json").read_text())


@pytest.mark.parametrize("stage", ["shards", "vqvae", "codes", "prior", "evaluation"])
def test_every_stage_is_finished_and_says_what_it_found(home: Path, stage: str) -> None:
    assert manifest(home, stage)["results"]
    exit_file = home / "runs" / "small" / stage / "exit.json"
    assert json.loads(exit_file.read_text())["exit_code"] == 0


def test_a_grid_is_shown_after_each_stage(home: Path) -> None:
    shown = [line.split("picture: ")[1] for line in (home / "said.txt").read_text().splitlines() if "picture: " in line]

    assert [Path(path).parts[2] for path in shown] == ["shards", "vqvae", "codes", "prior", "evaluation"]
    sizes = [Image.open(home / path).size for path in shown]
    assert sizes[0] == (10 * 34 + 2, 4 * 34 + 2)
    decoded = np.asarray(Image.open(home / shown[2])).astype(float)
    above, below = decoded[: len(decoded) // 2], decoded[len(decoded) // 2 :]
    assert 0 < np.abs(above - below).mean() < 80, "the lower row is what the codes of the upper one say"


def test_evaluation_measures_reconstructions_codes_and_samples(home: Path) -> None:
    results = manifest(home, "evaluation")["results"]
    assert 5 < results["reconstruction"]["psnr"] < 40
    assert 0 < results["codes"]["level1_usage"] <= 1
    assert results["samples"]["n"] == 16
    assert 0 <= results["samples"]["class_accuracy"] <= 1
    assert {"coverage_of_ceiling", "frechet_distance"} <= set(results["samples"]["probe"])


def test_the_same_line_again_makes_nothing_new(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (home / "runs" / "small").glob("*/manifest.json")}
    again = tessera("run", "small.yaml", cwd=home)
    after = {path: path.stat().st_mtime_ns for path in (home / "runs" / "small").glob("*/manifest.json")}

    assert again.returncode == 0 and before == after


def test_a_changed_recipe_on_a_finished_stage_is_refused_with_the_difference(home: Path) -> None:
    refused = tessera("run", "small.yaml", "vqvae.channels=24", cwd=home)

    assert refused.returncode == 2
    assert "channels" in refused.stderr and "16" in refused.stderr and "24" in refused.stderr
    assert "--redo" in refused.stderr and "Traceback" not in refused.stderr


def test_sample_paints_what_is_named_and_writes_what_was_asked(home: Path) -> None:
    done = tessera("sample", "runs/small", "--class", "owl", "-n", "3", "--out", "owls", cwd=home)

    assert done.returncode == 0, done.stderr
    assert (home / "owls" / "grid.png").is_file()
    assert json.loads((home / "owls" / "asked.json").read_text())["n"] == 3
    pictures = [np.asarray(Image.open(path)) for path in sorted((home / "owls").glob("0*.png"))]
    assert len(pictures) == 3 and all(picture.shape == (32, 32, 3) for picture in pictures)


def test_an_image_depends_on_its_seed_not_on_its_batch(home: Path) -> None:
    tessera("sample", "runs/small", "--class", "owl", "-n", "3", "--seed", "5", "--out", "three", cwd=home)
    tessera("sample", "runs/small", "--class", "owl", "-n", "1", "--seed", "6", "--out", "one", cwd=home)

    batched, alone = sorted((home / "three").glob("0*.png"))[1], next((home / "one").glob("0*.png"))
    assert np.abs(np.asarray(Image.open(batched)).astype(int) - np.asarray(Image.open(alone))).max() <= 1


def test_an_unknown_class_lists_those_there_are(home: Path) -> None:
    refused = tessera("sample", "runs/small", "--class", "eagle", cwd=home)
    assert refused.returncode == 2
    assert "eagle" in refused.stderr and "owl" in refused.stderr


def test_reconstruct_takes_a_picture_of_any_size(home: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (75, 110, 3), np.uint8)).save(home / "any.png")
    done = tessera("reconstruct", "runs/small", "any.png", "--out", "back", cwd=home)

    assert done.returncode == 0, done.stderr
    assert Image.open(next((home / "back").glob("*.png"))).size == (110, 75)


def test_the_shards_verify_and_the_report_is_one_page(home: Path) -> None:
    assert tessera("verify", "runs/small/shards", cwd=home).returncode == 0
    page = (home / "runs" / "small" / "report.html").read_text()
    assert "data:image/png;base64" in page and 'src="http' not in page


def test_offline_wandb_runs_are_there(home: Path) -> None:
    for stage in ("vqvae", "prior"):
        assert list((home / "runs" / "small" / stage / "wandb").glob("offline-run-*/run-*.wandb"))


def test_python_paints_too(home: Path) -> None:
    import tessera as face

    images = face.load(home / "runs" / "small")(cls="duck", n=2)
    assert [image.size for image in images] == [(32, 32)] * 2


def test_no_picture_leaves_an_unfinished_run(home: Path) -> None:
    missing = tessera("sample", "runs/nothing", cwd=home)
    assert missing.returncode == 2 and "Traceback" not in missing.stderr
