"""Checkpoints: whole or not there, whatever kills the process or damages a file."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

from pipeline import checkpoint
from pipeline.errors import ConfigError


class StillPlayer:
    """The part of a player that a checkpoint sees, holding tensors whose values are the step."""

    def __init__(self, step: int = 0, size: int = 50_000) -> None:
        self.steps = step
        self.tensors = {"model.weight": torch.full((size,), float(step)), "optimizer.0.0.exp_avg": torch.zeros(size)}

    def state(self) -> dict[str, torch.Tensor]:
        return self.tensors

    def shard_state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, tensors: dict[str, torch.Tensor], shard: dict[str, torch.Tensor], steps: int) -> None:
        self.tensors, self.steps = tensors, steps


class Alone:
    rank, world, is_main = 0, 1, True

    def barrier(self) -> None:
        pass


def save(folder: Path, step: int, keep: int = 2, best: int | None = None) -> None:
    checkpoint.save(folder, step, {"main": StillPlayer(step)}, {"best": 1.0, "best_step": best}, Alone(), keep)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 7)
    found = checkpoint.newest(tmp_path)
    player = StillPlayer()
    checkpoint.load(found, {"main": player}, Alone())

    assert found.step == player.steps == 7
    assert torch.equal(player.tensors["model.weight"], torch.full((50_000,), 7.0))


def test_a_checkpoint_of_another_model_says_how_to_start_anew(tmp_path: Path) -> None:
    save(tmp_path, 7)

    class Other(StillPlayer):
        def load_state(self, tensors: dict[str, torch.Tensor], shard: dict[str, torch.Tensor], steps: int) -> None:
            torch.nn.Linear(3, 3).load_state_dict({"weight": tensors["model.weight"]})

    with pytest.raises(ConfigError, match=r"another 'main' than[\s\S]*--redo"):
        checkpoint.load(checkpoint.newest(tmp_path), {"main": Other()}, Alone())


def test_the_last_k_and_the_best_stay(tmp_path: Path) -> None:
    for step in range(1, 7):
        save(tmp_path, step, keep=2, best=2 if step > 1 else None)

    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step-{n:08d}" for n in (2, 5, 6)]


def test_a_damaged_newer_checkpoint_does_not_push_out_what_is_saved_after_it(tmp_path: Path) -> None:
    for step in (1, 2, 4):
        save(tmp_path, step, keep=3)
    for step in (2, 4):
        (tmp_path / f"step-{step:08d}" / checkpoint.STATE).unlink()
    with pytest.warns(UserWarning, match="passed over"):
        assert checkpoint.newest(tmp_path).step == 1
    save(tmp_path, 3, keep=1)  # the run went on from 1

    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"] and checkpoint.newest(tmp_path).step == 3


def mutations(path: Path) -> list[tuple[str, object]]:
    size = path.stat().st_size

    def cut(share: float) -> None:
        os.truncate(path, int(size * share))

    def flip() -> None:
        data = bytearray(path.read_bytes())
        data[size // 2] ^= 1
        path.write_bytes(data)

    return [("cut to 0", lambda: cut(0)), ("cut to half", lambda: cut(0.5)), ("cut to 99 %", lambda: cut(0.99)),
            ("one bit", flip), ("deleted", path.unlink)]  # fmt: skip


@pytest.mark.parametrize("name", ["main.safetensors", checkpoint.MANIFEST, checkpoint.STATE])
@pytest.mark.parametrize("which", range(5))
def test_damage_is_found_and_the_one_before_is_taken(tmp_path: Path, name: str, which: int) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    _, damage = mutations(tmp_path / "step-00000002" / name)[which]
    damage()

    with pytest.warns(UserWarning, match="passed over"):
        assert checkpoint.newest(tmp_path).step == 1


def test_files_of_two_steps_are_not_mixed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "step-00000001" / "main.safetensors").replace(tmp_path / "step-00000002" / "main.safetensors")

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert checkpoint.newest(tmp_path) is None
    assert "sha256 differs" in str(seen[0].message) and "is missing" in str(seen[1].message)


def test_sixty_kills_while_saving_leave_nothing_unloadable(tmp_path: Path) -> None:
    draw = random.Random(11)
    save(tmp_path, 1)
    started = time.monotonic()
    save(tmp_path, 2)
    one_save = time.monotonic() - started
    torch.set_num_threads(1)  # a forked child must not meet the parent's thread pool
    step = 3
    for _ in range(60):
        child = os.fork()
        if child == 0:
            for later in range(step, step + 1000):
                save(tmp_path, later)
            os._exit(0)
        time.sleep(draw.uniform(0, 3 * one_save))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

        with warnings.catch_warnings():
            warnings.simplefilter("error")  # not one damaged checkpoint under a final name
            checkpoint.sweep(tmp_path)
            found = checkpoint.newest(tmp_path)
        player = StillPlayer()
        checkpoint.load(found, {"main": player}, Alone())
        assert found.step >= step - 1
        assert torch.equal(player.tensors["model.weight"], torch.full((50_000,), float(found.step)))
        step = found.step + 1


def test_files_can_be_read_by_the_group(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert all(path.stat().st_mode & 0o044 for path in (tmp_path / "step-00000001").iterdir())


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    save(tmp_path, 1)
    manifest = json.loads((tmp_path / "step-00000001" / checkpoint.MANIFEST).read_text())
    assert set(manifest["files"]) == {"main.safetensors", checkpoint.STATE}
    assert manifest["step"] == 1
