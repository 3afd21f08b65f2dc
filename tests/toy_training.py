"""A small real training run for the tests of loop, backend and checkpoints.

`python -m tests.toy_training OUT [key=value]`.

A two-layer regressor with dropout and a buffer that follows the data, so that weights, EMA, buffers, optimizer and
dropout must all come back for a resumed run to equal an undisturbed one.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from launchers.train import leave
from pipeline import randomness
from pipeline.backend import Backend
from pipeline.errors import TesseraError
from pipeline.tracking import Tracker, TrackingConfig
from pipeline.train_loop import train
from pipeline.training_config import BackendConfig, LoopConfig, OptimizerConfig

GLOBAL_BATCH = 12


class Numbers:
    """Batches that are a function of the samples seen; split over ranks and micro-batches as the real reader splits."""

    def __init__(self, rank: int, world: int, micro_batches: int) -> None:
        self.step = 0
        share = GLOBAL_BATCH // world
        self.rows = torch.arange(rank * share, (rank + 1) * share)
        self.micro_batches = micro_batches

    @property
    def micro_batch(self) -> int:
        return len(self.rows) // self.micro_batches

    def halve_micro_batch(self) -> int:
        self.micro_batches *= 2
        return self.micro_batch

    def seek(self, samples_seen: int) -> None:
        self.step = samples_seen // GLOBAL_BATCH

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        while True:
            x = randomness.normal(randomness.seed_of("x", self.step), self.rows, 8)
            self.step += 1
            batch = [{"x": part} for part in x.chunk(self.micro_batches)]
            yield batch


class Net(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(dropout), nn.Linear(32, 8))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Toy:
    best = ("loss", "min")

    def __init__(self, backend: Backend, steps: int, options: dict[str, str]) -> None:
        self.backend, self.out = backend, Path(sys.argv[1])
        self.die_at, self.nan_at, self.room = (int(options.get(name, 0)) for name in ("die", "nan", "room"))
        net = Net(float(options.get("dropout", 0.1)))
        self.main = backend.player(
            "main", net, OptimizerConfig(kind=options.get("kind", "auto"), lr=0.01, warmup_steps=2), total_steps=steps
        )
        self.players = {"main": self.main}

    def train_step(self, micro_batches: list[dict[str, Any]], step: int) -> dict[str, Any]:
        with (self.out / f"steps-{self.backend.rank}").open("a") as file:  # what was really trained
            file.write(f"{step}\n")
        if step and step == self.die_at and self.backend.rank == self.backend.world - 1:
            os.kill(os.getpid(), signal.SIGKILL)

        def loss_fn(net: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            loss = (net(batch["x"]) - batch["x"].cumsum(1)).square().mean()
            if self.room and len(batch["x"]) > self.room:
                loss.backward()  # gradients of a step that is then broken off
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
            if step and step == self.nan_at and self.backend.rank == 0:
                loss = loss * float("nan")
            return loss, {"loss": loss}

        metrics = self.main.update(loss_fn, micro_batches)
        total = self.backend.all_reduce_sum(sum(batch["x"].sum(0) for batch in micro_batches))
        self.main.model.mean.lerp_(total / GLOBAL_BATCH, 0.1)
        return metrics

    def evaluate(self, step: int) -> dict[str, float]:
        x = randomness.normal(7, torch.arange(32), 8)
        with torch.no_grad():
            loss = (self.main.ema_model(x) - x.cumsum(1)).square().mean()
        return {"loss": float(loss)}

    def paint(self, step: int) -> dict[str, np.ndarray]:
        return {"grey": np.full((4, 4, 3), step % 255, np.uint8)}

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "done").write_text("yes")


def digest(task: Toy) -> str:
    """One hash over weights, EMA, buffers and optimizer."""
    tensors = {**task.main.state(), **task.main.shard_state()}
    summed = hashlib.sha256()
    for key in sorted(tensors):
        summed.update(key.encode() + tensors[key].detach().cpu().contiguous().numpy().tobytes())
    return summed.hexdigest()


def main() -> int:
    out = Path(sys.argv[1])
    options = dict(argument.split("=") for argument in sys.argv[2:])
    steps = int(options.get("steps", 12))
    if "after" in options:  # a stage of another mode, earlier in this process
        before = Backend.start(BackendConfig(zero_stage=int(options["after"])), seed=3)
        Toy(before, steps, options)
        before.finish()
    backend = Backend.start(BackendConfig(zero_stage=int(options.get("zero", 0))), seed=3)
    if "after" in options:  # on a GPU Accelerate would shard this stage too
        assert "ACCELERATE_USE_DEEPSPEED" not in os.environ
    if backend.is_main:
        out.mkdir(parents=True, exist_ok=True)
    backend.barrier()
    batches = Numbers(backend.rank, backend.world, int(options.get("micro", 1)))
    task = Toy(backend, steps, options)
    loop = LoopConfig(steps=steps, log_every=1, eval_every=4, paint_every=6, save_every=int(options.get("save", 3)))
    tracker = Tracker.start(out, TrackingConfig(mode="disabled"), "toy", {}, backend)
    try:
        train(task, batches, loop, out=out, backend=backend, tracker=tracker, global_batch=GLOBAL_BATCH)
    except TesseraError as error:
        print(error)
        return error.exit_code
    digests = backend.gather_objects(digest(task))
    if backend.is_main:
        (out / "digests.json").write_text(json.dumps(digests))
    backend.finish()
    return 0


if __name__ == "__main__":
    leave(main())
