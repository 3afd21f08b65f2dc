"""The training loop on real processes: exact resume, stop requests, non-finite steps, ZeRO."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import checkpoint, randomness
from pipeline.player import _in_autocast
from tests import spawn

MODULE = "tests.toy_training"


def digests(folder: Path) -> list[str]:
    return json.loads((folder / "digests.json").read_text())


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_killed_run_continues_bit_for_bit(tmp_path: Path, world: int) -> None:
    spawn.run(MODULE, [str(tmp_path / "whole"), "micro=2"], world)

    processes = spawn.start(MODULE, [str(tmp_path / "killed"), "micro=2", "die=11"], world)
    processes[-1].wait(timeout=120)
    for process in processes:
        process.kill()
    assert -signal.SIGKILL in spawn.finish(processes)
    assert not (tmp_path / "killed" / "digests.json").exists()
    found = checkpoint.newest(tmp_path / "killed" / "checkpoints")
    assert found is not None and found.step == 9
    for path in (tmp_path / "killed").glob("steps-*"):
        path.unlink()
    spawn.run(MODULE, [str(tmp_path / "killed"), "micro=2"], world)
    for rank in range(world):
        trained = (tmp_path / "killed" / f"steps-{rank}").read_text().split()
        assert trained == ["0", "9", "10", "11"], "a warm-up step, then only what was missing"

    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")
    assert len(set(digests(tmp_path / "whole"))) == 1, "ranks hold different weights"


def test_a_stage_is_not_sharded_because_the_one_before_it_was(tmp_path: Path) -> None:
    for name, options in (("alone", []), ("after", ["after=2"])):
        spawn.run(MODULE, [str(tmp_path / name), "steps=3", *options], 1)

    assert digests(tmp_path / "after") == digests(tmp_path / "alone")


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    processes = spawn.start(MODULE, [str(tmp_path), "die=11"], 1)
    spawn.finish(processes)
    spawn.run(MODULE, [str(tmp_path)], 1)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, 13))


def test_memory_that_runs_out_halves_the_micro_batch(tmp_path: Path) -> None:
    spawn.run(MODULE, [str(tmp_path / "scarce"), "room=3"], 1)
    spawn.run(MODULE, [str(tmp_path / "told"), "micro=4"], 1)

    assert digests(tmp_path / "scarce") == digests(tmp_path / "told")


def test_memory_that_runs_out_among_several_processes_says_what_to_type(tmp_path: Path) -> None:
    processes = spawn.start(MODULE, [str(tmp_path), "room=3"], 2)
    answers = [process.communicate(timeout=120)[0] for process in processes]

    assert [process.returncode for process in processes] == [1, 1]
    assert all("data.micro_batch=3" in answer for answer in answers), answers


def test_micro_batches_and_processes_make_the_same_step(tmp_path: Path) -> None:
    found = []
    for parts, world in ((1, 1), (3, 1), (3, 2)):
        out = tmp_path / f"{parts}-{world}"
        spawn.run(MODULE, [str(out), f"micro={parts}", "steps=3", "dropout=0"], world)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found.append([line["train/grad_norm"] for line in lines if "train/grad_norm" in line])
        found[-1] += [line["val/loss"] for line in lines if "val/loss" in line]
    assert len(found[0]) == 4 and found[0][0] > 0
    assert found[1] == pytest.approx(found[0], rel=1e-4) and found[2] == pytest.approx(found[0], rel=1e-4)


def test_a_sharded_module_runs_in_the_precision_of_the_run() -> None:
    backend = SimpleNamespace(autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    _in_autocast(model := torch.nn.Linear(4, 4), backend)  # type: ignore[arg-type]
    with torch.autocast("cpu", enabled=False):  # as DeepSpeed's engine calls it on a GPU
        assert model(torch.randn(2, 4)).dtype == torch.bfloat16


def test_no_draw_is_nought_or_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in (-1, 0):
        monkeypatch.setattr(randomness, "_mix", lambda x, bits=bits: torch.full_like(x, bits))
        draws = randomness.uniform(0, torch.arange(3), 2)
        assert ((draws > 0) & (draws < 1)).all() and randomness.gumbel(0, torch.arange(3), 2).isfinite().all()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1, "file"])
def test_a_stop_request_saves_and_exits_85(tmp_path: Path, how: signal.Signals | str) -> None:
    processes = spawn.start(MODULE, [str(tmp_path), "steps=100000", "save=100000"], 1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if how == "file":
        (tmp_path / "STOP").touch()
    else:
        processes[0].send_signal(how)

    assert spawn.finish(processes) == [85]
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None and found.step > 0
    assert not (tmp_path / "STOP").exists()


def test_no_rank_applies_a_step_that_is_not_finite_on_one(tmp_path: Path) -> None:
    spawn.run(MODULE, [str(tmp_path), "nan=5"], 2)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    skipped = {line["step"]: line["train/skipped"] for line in lines if "train/skipped" in line}
    assert skipped[6] == 1.0 and sum(skipped.values()) == 1.0
    assert len(set(digests(tmp_path))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("zero", [1, 2])
def test_zero_resumes_bit_for_bit(tmp_path: Path, world: int, zero: int) -> None:
    pytest.importorskip("deepspeed")
    options = [f"zero={zero}", "micro=2"]
    spawn.run(MODULE, [str(tmp_path / "whole"), *options], world)
    spawn.run(MODULE, [str(tmp_path / "cut"), *options, "steps=12", "save=5"], world)
    for folder in (tmp_path / "cut" / "checkpoints").glob("step-*"):
        if int(folder.name[5:]) > 10:
            folder.rename(folder.with_name(f"old.{folder.name}"))
    spawn.run(MODULE, [str(tmp_path / "cut"), *options, "save=5"], world)

    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


@pytest.mark.slow
def test_zero_takes_the_steps_of_plain_ddp(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    for zero in (0, 1, 2):
        spawn.run(MODULE, [str(tmp_path / str(zero)), f"zero={zero}", "kind=adamw"], 2)
    losses = [json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[-1])["val/loss"] for n in "012"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
