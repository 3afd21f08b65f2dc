"""Exact resume of the real stages: SIGKILL at an arbitrary step, the same line again, bit-identical checkpoints.

A checkpoint's MANIFEST.json holds the sha256 of weights, EMA, codebooks and optimizer of every player, so equal
manifests are equal bits.
"""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline import checkpoint
from tests import spawn

RECIPE = """
seed: 5
tracking: {mode: disabled}
shards: {source: birds, size: 32, count: 160, val: 0.2, shard_samples: 40, workers: 1}
align:
  image_side: 32
  embedding: 32
  text: {width: 32, layers: 1}
  image: {width: 32, layers: 1}
  audio: {width: 32, layers: 1}
  vocabulary: 700
  audio_seconds: 0.5
  data: {global_batch: 12}
  loop: {steps: 14, log_every: 1, eval_every: 6, paint_every: 14, save_every: 4}
vqvae:
  levels: [8, 4]
  codebook_sizes: [16, 32]
  channels: 16
  discriminator_channels: 8
  loss: {adversarial: 0.1, adversarial_start: 0.3, adversarial_ramp: 0.2}
  data: {global_batch: 12}
  loop: {steps: 14, log_every: 1, eval_every: 6, paint_every: 14, save_every: 4}
codes: {variants: 2, conditions: {image: [grey, sketch], picture: auto}}
prior:
  drop_each: {class: 0.5, text: 0.3, audio: 0.5, image: 0.5}
  width: 32
  depth: 2
  heads: 2
  dropout: 0.1
  data: {global_batch: 12}
  loop: {steps: 14, log_every: 1, eval_every: 6, paint_every: 14, save_every: 4}
"""


AS_BIRDS = (
    "prior.kind=autoregressive", "prior.corrupt=0", "prior.whole_every=2", "prior.attend=[text]",
    "prior.condition_layers=1", "prior.wordless=0.3",
)  # fmt: skip
"""The prior of the recipe `birds`, where that of the recipe above is the default's."""
ALIGN_AS_BIRDS = (
    "align.attributes=10", "align.opposites=[[left,right],[왼쪽,오른쪽]]", "align.more_captions=2",
)  # fmt: skip
"""Its towers: captions with left and right exchanged, and attributes told."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and its shards, tokenizer and codes."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "toy.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "launchers.cli", "run", str(folder / "toy.yaml"), "--until", "codes"]
    environment = spawn.environment(0, 1, 0)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name)
    subprocess.run([*command, "--runs", str(folder / "base")], check=True, env=environment, cwd=spawn.ROOT)
    return folder


def train(made: Path, name: str, stage: str, world: int, extra: tuple[str, ...]) -> list[subprocess.Popen[str]]:
    """Start one stage of a run that uses the inputs already made."""
    base = made / "base" / "toy"
    values = json.dumps({need: str(base / need) for need in ("shards", "align", "vqvae", "codes") if need != stage})
    recipe = made / f"{name}.yaml"
    sections = RECIPE.splitlines()
    kept, keep = [], True
    for line in sections:  # only the section under test stays; its inputs come from the base run
        if line and not line.startswith(" "):
            keep = line.split(":")[0] in ("seed", "tracking", stage)
        if keep:
            kept.append(line)
    recipe.write_text("\n".join([*kept, f"use: {values}"]))
    arguments = [stage, "--config", str(recipe), "--runs", str(made / "runs"), *extra]
    return spawn.start("launchers.train", arguments, world)


def last_manifest(made: Path, name: str, stage: str) -> dict[str, object]:
    folder = max((made / "runs" / name / stage / "checkpoints").glob("step-*"))
    manifest: dict[str, object] = json.loads((folder / "MANIFEST.json").read_text())
    assert manifest["step"] == 14
    return manifest


def kill_at(made: Path, name: str, stage: str, processes: list[subprocess.Popen[str]], step: int) -> None:
    """SIGKILL every rank as soon as the metrics show `step`."""
    path = made / "runs" / name / stage / "metrics.jsonl"
    deadline = time.monotonic() + 180
    while not path.exists() or len(path.read_text().splitlines()) < step:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), spawn.finish(processes)
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    spawn.finish(processes)


def check(made: Path, stage: str, world: int, extra: tuple[str, ...] = ()) -> None:
    marks = [re.sub(r"[^A-Za-z0-9]", "", item.split("=")[-1]) for item in extra]
    label = "-".join([stage, str(world), *marks])
    assert spawn.finish(train(made, f"whole-{label}", stage, world, extra)) == [0] * world
    step = random.Random(label).randint(6, 12)  # after the first checkpoint, of step 4
    kill_at(made, f"killed-{label}", stage, train(made, f"killed-{label}", stage, world, extra), step)
    found = checkpoint.newest(made / "runs" / f"killed-{label}" / stage / "checkpoints")
    assert found is not None and found.step < 14
    assert spawn.finish(train(made, f"killed-{label}", stage, world, extra)) == [0] * world

    said = (made / "runs" / f"killed-{label}" / stage / "log.txt").read_text()
    assert re.findall(r"goes on after step (\d+)", said) == [str(found.step)]
    assert last_manifest(made, f"killed-{label}", stage) == last_manifest(made, f"whole-{label}", stage)


@pytest.mark.parametrize("stage", ["align", "vqvae", "prior"])
def test_a_killed_stage_ends_in_the_same_bits(made: Path, stage: str) -> None:
    check(made, stage, world=1)


@pytest.mark.parametrize(("stage", "extra"), [("prior", AS_BIRDS), ("align", ALIGN_AS_BIRDS)])
def test_what_the_recipe_of_birds_trains_ends_in_the_same_bits(made: Path, stage: str, extra: tuple[str, ...]) -> None:
    check(made, stage, world=1, extra=extra)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(("stage", "extra"), [("prior", AS_BIRDS), ("align", ALIGN_AS_BIRDS)])
def test_killed_ranks_of_the_recipe_of_birds_end_in_the_same_bits(
    made: Path, stage: str, extra: tuple[str, ...], world: int
) -> None:
    check(made, stage, world=world, extra=extra)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "extra"), [("prior", AS_BIRDS), ("align", ALIGN_AS_BIRDS)])
def test_killed_ranks_of_the_recipe_of_birds_under_zero_end_in_the_same_bits(
    made: Path, stage: str, extra: tuple[str, ...]
) -> None:
    check(made, stage, world=2, extra=(*extra, f"{stage}.backend.zero_stage=2"))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("stage", ["align", "vqvae", "prior"])
def test_killed_ranks_end_in_the_same_bits(made: Path, stage: str, world: int) -> None:
    check(made, stage, world=world)


@pytest.mark.slow
def test_align_learns_the_same_however_its_batch_is_cut(made: Path) -> None:
    """Negatives and gradients are those of the whole global batch, over processes and micro-batches."""
    once = ("align.loop.steps=3", "align.loop.eval_every=3", "align.loop.paint_every=3")
    cuts = {"one": (1, ()), "two": (2, ()), "pieces": (1, ("align.data.micro_batch=3",))}
    models = {}
    for name, (world, extra) in cuts.items():
        assert spawn.finish(train(made, f"cut-{name}", "align", world, (*once, *extra))) == [0] * world
        models[name] = load_file(made / "runs" / f"cut-{name}" / "align" / "model" / "clip" / "model.safetensors")
    for name in ("two", "pieces"):
        for key, tensor in models["one"].items():
            torch.testing.assert_close(models[name][key], tensor, atol=2e-4, rtol=2e-3, msg=f"{name}: {key}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["align", "prior"])
def test_a_killed_stage_under_zero_ends_in_the_same_bits(made: Path, stage: str) -> None:
    pytest.importorskip("deepspeed")
    check(made, stage, world=2, extra=(f"{stage}.backend.zero_stage=2",))


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_killed_codes_end_in_the_same_bytes(made: Path, world: int) -> None:
    extra = ("codes.variants=12",)
    assert spawn.finish(train(made, f"codes-{world}", "codes", world, extra)) == [0] * world
    processes, out = train(made, f"killed-codes-{world}", "codes", world, extra), made / "runs"
    folder, deadline = out / f"killed-codes-{world}" / "codes", time.monotonic() + 180
    while not list(folder.glob("*-00000*.json")):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.005)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    spawn.finish(processes)
    done = {path.name: path.stat().st_mtime_ns for path in folder.glob("*-00000*.json")}
    assert done and not (folder / "dataset.json").exists(), "killed on the way"

    assert spawn.finish(train(made, f"killed-codes-{world}", "codes", world, extra)) == [0] * world
    once, twice = (
        {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.suffix in (".tar", ".json")}
        for top in (out / f"codes-{world}" / "codes", folder)
    )
    for files in (once, twice):
        for name in ("manifest.json", "env.json", "exit.json"):  # of the process, not of the data
            files.pop(name, None)
    assert once == twice and len(once) > 10
    assert {name: (folder / name).stat().st_mtime_ns for name in done} == done, "what was whole stays"


@pytest.mark.slow
def test_reader_workers_change_no_bit(made: Path) -> None:
    for workers in (0, 2):
        extra = (f"vqvae.data.workers={workers}",)
        assert spawn.finish(train(made, f"workers-{workers}", "vqvae", 1, extra)) == [0]
    assert last_manifest(made, "workers-0", "vqvae") == last_manifest(made, "workers-2", "vqvae")
