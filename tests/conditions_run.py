"""One small run of all conditions, trained once for every test that looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launchers.cli import main
from pipeline.shard_index import open_shards
from pipeline.shards import read_samples
from stages.generate import Painter

RECIPE = """
name: all
seed: 3
tracking: {mode: disabled}
shards: {source: birds, size: 32, count: 120, val: 0.2, shard_samples: 40, workers: 1}
align:
  image_side: 32
  embedding: 32
  text: {width: 32, layers: 2}
  image: {width: 32, layers: 2}
  audio: {width: 32, layers: 2}
  vocabulary: 800
  audio_seconds: 0.8
  data: {global_batch: 24}
  loop: {steps: 6}
vqvae:
  levels: [8, 4]
  codebook_sizes: [16, 32]
  channels: 16
  loss: {perceptual: 0.1}
  data: {global_batch: 24}
  loop: {steps: 6, log_every: 2}
codes: {variants: 2, conditions: {image: [grey, sketch], vector: auto, picture: auto}}
prior: {width: 32, depth: 2, heads: 2, drop_each: {class: 0.5, image: 0.5}, data: {global_batch: 24}, loop: {steps: 4}}
evaluation: {samples: 10, obedience: 9, reconstructions: 20, probe_steps: 4}
"""
EVERYTHING = ["audio", "class", "image", "picture", "text", "vector"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    (folder / "all.yaml").write_text(RECIPE)
    assert main(["run", str(folder / "all.yaml"), "--runs", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def run(runs: Path) -> Path:
    return runs / "all"


@pytest.fixture(scope="session")
def causal(run: Path) -> Path:
    """Another prior on the same codes: autoregressive, with a layer over the tokens."""
    prior = "prior: {kind: autoregressive, condition_layers: 1, wordless: 0.3, "
    recipe = RECIPE.replace("name: all", "name: causal").replace("prior: {", prior).replace("steps: 4", "steps: 2")
    head, _, tail = recipe.partition("shards:")
    used = ", ".join(f"{name}: {run / name}" for name in ("shards", "align", "vqvae", "codes"))
    path = run.parent / "causal.yaml"
    path.write_text(f"{head}use: {{{used}}}\n{tail[tail.index('prior:') : tail.index('evaluation:')]}")
    assert main(["run", str(path), "--runs", str(run.parent)]) == 0
    return run.parent / "causal"


@pytest.fixture(scope="session", params=["masked", "autoregressive"])
def painter(request: pytest.FixtureRequest, run: Path) -> Painter:
    folder = run if request.param == "masked" else request.getfixturevalue("causal")
    return Painter.load(folder, device="cpu")


@pytest.fixture
def files(run: Path, tmp_path: Path) -> Iterator[Path]:
    sample = next(read_samples(open_shards(run / "shards").split("val")[0]))
    (tmp_path / "call.flac").write_bytes(sample.members["flac"])
    (tmp_path / "bird.jpg").write_bytes(sample.members["jpg"])
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    yield tmp_path
