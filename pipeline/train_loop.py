"""The loop every trained stage runs in: `fit` decides when to step, log, evaluate, paint, save and stop; a `Task` what.

Order of a start: build, one throw-away warm-up step (DDP rebuilds its buckets after the first backward, which would
make a resumed run sum in another order), restore, seek the data, loop. A stop request (SIGTERM, SIGINT, SIGUSR1 or a
file STOP in the run or stage folder) is agreed on by all ranks after each step, saved, and answered with exit code 85.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from pipeline import randomness
from pipeline.errors import Stopped, TesseraError, out_of_memory
from pipeline.progress import Progress
from pipeline.stopping import SIGNALS, STOP_FILE
from pipeline.tracking import Tracker
from pipeline.training_config import LoopConfig

if TYPE_CHECKING:
    import numpy as np

    from pipeline.backend import Backend
    from pipeline.player import Player
    from pipeline.shards import Batches

log = logging.getLogger(__name__)
Batch = dict[str, Any]
INSISTS_AFTER = 3.0
"""Seconds after which a stop signal is another one, not the first one passed on."""


class Task(Protocol):
    """What a trained stage does; `fit` knows nothing else of it."""

    players: dict[str, Player]
    """The models that are trained, by name; a checkpoint keeps their state and nothing else."""
    best: tuple[str, str]
    """The metric of `evaluate` that names the best checkpoint, and 'min' or 'max'."""

    def train_step(self, micro_batches: list[Batch], step: int) -> dict[str, Any]:
        """One optimizer step per player over this rank's share of a global batch; returns scalars to log."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Figures on val; every rank enters and gets the same."""

    def paint(self, step: int) -> dict[str, np.ndarray]:
        """Pictures by name, uint8 (h, w, 3); rank 0 only."""

    def export(self, folder: Path) -> None:
        """Write what other stages load; rank 0 only."""


class Run:
    """One stage folder while it trains: its checkpoints, its tracker and its stop request."""

    def __init__(
        self, out: Path, backend: Backend, task: Task, batches: Batches, cfg: LoopConfig, tracker: Tracker
    ) -> None:
        self.out, self.backend, self.task, self.batches = out, backend, task, batches
        self.cfg, self.tracker = cfg, tracker
        self.best: float | None = None
        self.best_step: int | None = None
        self.signal_seen = False
        self.progress: Progress | None = None
        self._saved_at = time.monotonic()
        self._saved_step = -1
        self._logged_at, self._logged_step = time.monotonic(), 0

    # --- start and stop ----------------------------------------------------------------------------------------------

    def restore(self, global_batch: int) -> int:
        """Warm up, take back the newest whole checkpoint (or the initial state), seek the data; the finished steps."""
        from pipeline import checkpoint

        fresh = {name: _clone(player) for name, player in self.task.players.items()}
        self._warm_up()
        found = None
        if self.backend.is_main:
            checkpoint.sweep(self.out / "checkpoints")
            found = checkpoint.newest(self.out / "checkpoints")
        found = self.backend.gather_objects(found)[0]
        if found is None:
            for name, player in self.task.players.items():
                player.load_state(*fresh[name], steps=0)
        else:
            checkpoint.load(found, self.task.players, self.backend)
            self.best, self.best_step = found.state.get("best"), found.state.get("best_step")
        step = found.step if found else 0
        self.batches.seek(step * global_batch)
        self.tracker.cut_back(step)
        self._saved_step = self._logged_step = step
        self._saved_at = self._logged_at = time.monotonic()
        if step:
            log.info("goes on after step %d", step)
        return step

    def _warm_up(self) -> None:
        """One throw-away step; where it does not fit into memory, again with half the micro-batch.

        Only a lone process tries again: the others would wait for the gradients of the one that ran out.
        """
        while True:
            try:
                self.task.train_step(next(iter(self.batches)), 0)
                return
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.backend.world > 1:
                    raise no_room(self.batches.micro_batch) from error
            for player in self.task.players.values():
                player.forget_gradients()
            size = self.batches.halve_micro_batch()
            log.warning("memory ran out: micro-batches of %d from here on (data.micro_batch=%d says so)", size, size)

    @property
    def stop_requested(self) -> bool:
        """True on every rank as soon as one was asked to stop."""
        files = [self.out / STOP_FILE, self.out.parent / STOP_FILE]
        found = [path for path in files if path.exists()] if self.backend.is_main else []
        asked = self.backend.any(self.signal_seen or bool(found))
        if asked:  # the same line typed again must resume, not stop again
            for path in found:
                path.unlink(missing_ok=True)
        return asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turn the stop signals into a request while the loop runs; who insists gets the default answer.

        One request comes several times where a whole process group gets it and a launcher passes it on.
        """
        asked_at = math.inf

        def request(number: int, frame: FrameType | None) -> None:
            nonlocal asked_at
            asked_at = min(asked_at, time.monotonic())
            self.signal_seen = True
            if time.monotonic() - asked_at > INSISTS_AFTER:
                signal.signal(number, previous[number])
                signal.raise_signal(number)

        previous: dict[int, Any] = {}
        try:
            for wanted in SIGNALS:
                previous[wanted] = signal.signal(wanted, request)
        except ValueError:  # not the main thread: whoever started the thread owns the signals
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    # --- while it runs -----------------------------------------------------------------------------------------------

    def log(self, metrics: dict[str, Any], step: int, *, images: int) -> None:
        """Write one line of training figures; `images` is the global batch."""
        values = self.backend.mean({key: float(value) for key, value in metrics.items()})
        now = time.monotonic()
        rate = (step - self._logged_step) * images / max(1e-9, now - self._logged_at)
        self._logged_at, self._logged_step = now, step
        values["perf/images_per_second"] = rate
        if self.backend.device.type == "cuda":
            import torch

            values["perf/gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self.tracker.log({k if "/" in k else f"train/{k}": v for k, v in values.items()}, step)
        if self.progress is not None:
            self.progress.update(step, {k: v for k, v in values.items() if "/" not in k and k not in ("skipped", "lr")})

    def evaluate(self, step: int) -> None:
        """Figures on val; a new best is saved at once."""
        began = time.monotonic()
        values = self.task.evaluate(step)
        self.tracker.log({k if "/" in k else f"val/{k}": v for k, v in values.items()}, step)
        if self.progress is not None:
            shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
            self.progress.note(f"{self.out.name}  step {step}  val  {shown}")
        name, direction = self.task.best
        value = values.get(name, math.nan)
        better = self.best is None or (value < self.best if direction == "min" else value > self.best)
        if math.isfinite(value) and better:
            self.best, self.best_step = value, step
        self._not_training(began)

    def paint(self, step: int) -> None:
        """Sample pictures into `samples/` and to the tracker."""
        began = time.monotonic()
        if self.backend.is_main:
            self.tracker.images(self.task.paint(step), step)
        self.backend.barrier()
        self._not_training(began)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due by steps, by minutes or because this step is the best, as rank 0 sees it."""
        if step % self.cfg.save_every == 0:
            return True
        late = time.monotonic() - self._saved_at > 60 * self.cfg.save_minutes
        return self.backend.any(self.backend.is_main and (late or step == self.best_step))

    def save(self, step: int) -> None:
        """Write a checkpoint unless this step has one."""
        from pipeline import checkpoint

        if step == self._saved_step:
            return
        began = time.monotonic()
        state = {"best": self.best, "best_step": self.best_step}
        checkpoint.save(self.out / "checkpoints", step, self.task.players, state, self.backend, self.cfg.keep_last)
        self._saved_step, self._saved_at = step, time.monotonic()
        self._not_training(began)

    def _not_training(self, began: float) -> None:
        """Throughput counts training only: the time since `began` is left out."""
        self._logged_at += time.monotonic() - began


def fit(task: Task, batches: Iterable[list[Batch]], cfg: LoopConfig, run: Run, *, global_batch: int) -> int:
    """Train until `cfg.steps` or a stop request; return the last finished step.

    Raises:
        Stopped: a stop was requested before the end; the checkpoint is on disk.
    """
    step = run.restore(global_batch)
    title, shown = run.out.name, run.backend.is_main
    with run.listening(), Progress(cfg.steps, title=title, items_per_step=global_batch, start=step, shown=shown) as bar:
        run.progress = bar
        for micro_batches in batches:
            if step >= cfg.steps:
                break
            if run.stop_requested:
                run.save(step)
                raise Stopped(f"stopped on request at step {step} of {cfg.steps}; the same line typed again resumes.")
            _seed_dropout(run.backend, step)
            try:
                metrics = task.train_step(micro_batches, step)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise no_room(run.batches.micro_batch) from error
            for player in task.players.values():
                player.follow()
            step += 1
            _after_step(metrics, step, cfg, run, global_batch)
    return step


def no_room(micro_batch: int) -> TesseraError:
    """What to say when memory ran out where halving is not possible."""
    return TesseraError(
        f"memory ran out with micro-batches of {micro_batch} samples. The global batch can stay as it is:\n"
        f"type the same line with this stage's data.micro_batch={max(1, micro_batch // 2)}"
    )


def _after_step(metrics: dict[str, Any], step: int, cfg: LoopConfig, run: Run, global_batch: int) -> None:
    last = step == cfg.steps
    assert run.progress is not None
    run.progress.update(step)
    if step % cfg.log_every == 0 or last:
        run.log(metrics, step, images=global_batch)
    if step % cfg.eval_every == 0 or last:
        run.evaluate(step)
    if step % cfg.paint_every == 0 or last:
        run.paint(step)
    if last or run.due(step):
        run.save(step)


def _seed_dropout(backend: Backend, step: int) -> None:
    """Module dropout is the only draw from torch's global generator: a function of (seed, step, rank)."""
    import torch

    torch.manual_seed(randomness.seed_of(backend.seed, "dropout", step, backend.rank))


def _clone(player: Player) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        {key: value.clone() for key, value in player.state().items()},
        {key: value.clone() for key, value in player.shard_state().items()},
    )


def train(
    task: Task, batches: Batches, cfg: LoopConfig, *, out: Path, backend: Backend, tracker: Tracker, global_batch: int
) -> int:
    """Run `fit` in a stage folder and export the result; the last finished step.

    A stage calls this once its backend, task and batches are built.
    """
    run = Run(out, backend, task, batches, cfg, tracker)
    try:
        step = fit(task, batches, cfg, run, global_batch=global_batch)
        if backend.is_main:
            task.export(out / "model")
        backend.barrier()
    except Stopped:
        tracker.finish("stopped")
        raise
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish("finished")
    return step
