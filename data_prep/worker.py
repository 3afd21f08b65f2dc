"""One worker process: writes whole shards, one after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from data_prep.items import Item, Members
from data_prep.plan import ShardPlan
from data_prep.rejects import Reject, RejectedError
from pipeline.errors import DataError, TesseraError
from pipeline.samples import Sample
from pipeline.shard_index import Shard, write_shard

Make = Callable[[Item], Members]


class StopWorkerError(Exception):
    """The parent asked this worker to leave; the shard being written vanishes."""


@dataclass
class Progress:
    """Counts items as they are done, here or in the parent; says when to leave."""

    step: Callable[[], None]
    stop: Callable[[], bool] = field(default=lambda: False)

    @classmethod
    def local(cls, report: Callable[[int], None], every: int = 50) -> Progress:
        """For a worker that is the process itself: `report(items done in this shard)` now and then."""
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if done % every == 0:
                report(done)

        return cls(step)


@dataclass(frozen=True)
class ShardTask:
    """Write one planned shard."""

    plan: ShardPlan
    out: str

    def write(self, make: Make, progress: Progress) -> Shard:
        """Make every sample, note every reject, and write tar and sidecar."""
        rejects: list[Reject] = []
        samples = self._samples(make, progress, rejects)
        return write_shard(Path(self.out), self.plan.name, self.plan.split, samples, rejects)

    def _samples(self, make: Make, progress: Progress, rejects: list[Reject]) -> Iterator[Sample]:
        for key, item in zip(self.plan.keys, self.plan.items, strict=True):
            if progress.stop():
                raise StopWorkerError
            try:
                sample = Sample(key, make(item))
            except RejectedError as reject:
                rejects.append(reject.line(item.source))
                progress.step()
                continue
            except MemoryError:
                raise DataError(
                    f"{item.source}: memory ran out while it was converted. Try:  --workers 1  (shards.workers=1)"
                ) from None
            except TesseraError:
                raise
            except Exception as error:
                raise DataError(
                    f"{item.source}: it cannot be converted ({type(error).__name__}: {str(error)[:200]}). Take it away."
                ) from error
            yield sample
            progress.step()


_worker: dict[str, Any] = {}


def begin_worker(make: Make, counter: Any, stop: Any) -> None:
    """Set up a worker process: signals go to the parent alone, and the worker ends when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    _end_with_parent(timeout=0)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def step() -> None:
        with counter.get_lock():
            counter.value += 1

    _worker.update(make=make, progress=Progress(step, stop.is_set))


def write_in_worker(task: ShardTask) -> Shard:
    """`task.write` with what `begin_worker` set up."""
    return task.write(_worker["make"], _worker["progress"])


def _end_with_parent(timeout: float | None = None) -> None:
    """A killed parent leaves no orphan that writes into a folder another run may own by then."""
    parent = multiprocessing.parent_process()
    if parent is not None and wait_for([parent.sentinel], timeout):
        os._exit(1)
