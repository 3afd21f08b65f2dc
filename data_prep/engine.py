"""Several processes write the planned shards; the bytes are the same for any number of them, and after any kill.

One task is one output shard. A shard counts as done when its sidecar's sha256 is that of the tar, so a rerun writes
only what is missing. `dataset.json` is written last.
"""

from __future__ import annotations

import json
import multiprocessing
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from data_prep.config import ShardsConfig
from data_prep.items import Listing, Members
from data_prep.plan import ShardPlan, make_plan, settings_of, settle
from data_prep.rejects import Reject, check_rate, counts, write_report
from data_prep.sources import list_source
from data_prep.worker import Progress, ShardTask, begin_worker, write_in_worker
from pipeline.atomic_file import sweep
from pipeline.errors import DataError, TesseraError
from pipeline.shard_index import Shard, sha256_of, write_dataset
from pipeline.stopping import heed_stop_file

POLL_SECONDS = 0.5
_MODALITIES = {"cls": "class", "txt": "text", "flac": "audio", "wav": "audio", "source.png": "source"}


def write_shards(cfg: ShardsConfig, out: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """List the source, plan, write every shard that is not there yet, then `rejects.jsonl` and `dataset.json`.

    Args:
        cfg: the settings.
        out: the shards' folder; this process must be its only writer (`pipeline.owner` in a run).
        progress: called with (items done, items in all).

    Returns:
        {"samples", "splits", "shards", "classes", "rejected", "reasons", "bytes", "image_size", "modalities"}.

    Raises:
        ConfigError: no such source, or `out` was started with other settings.
        DataError: an empty source, or more rejects than `cfg.max_reject_rate`.
    """
    listing = list_source(cfg)
    plans = make_plan(cfg, listing.items)
    out.mkdir(parents=True, exist_ok=True)
    settle(cfg, listing, out)
    sweep(out)
    report = progress or (lambda done, total: None)
    done = _Done(cfg, out, len(listing.items), report)
    for plan in plans:
        finished = _finished(out, plan)
        if finished is not None:
            done.add(plan, finished)
    missing = [plan for plan in plans if plan.name not in done.shards]
    for plan, shard in _write(cfg, listing.make, missing, out, done):
        done.add(plan, shard)
    return _close(cfg, listing, plans, done, out)


class _Done:
    """What is finished so far: shards, rejects in the order of the plan, and the limit on rejects."""

    def __init__(self, cfg: ShardsConfig, out: Path, total: int, report: Callable[[int, int], None]) -> None:
        self.cfg, self.out, self.total, self._report, self._reported = cfg, out, total, report, 0
        self.shards: dict[str, Shard] = {}
        self.rejects_of: dict[str, list[Reject]] = {}
        self.extensions: set[str] = set()
        self.items = self.rejected = 0

    def add(self, plan: ShardPlan, shard: Shard) -> None:
        sidecar = json.loads((self.out / f"{plan.name}.json").read_bytes())
        self.shards[plan.name], self.rejects_of[plan.name] = shard, sidecar["rejects"]
        self.extensions.update(*sidecar["members"])
        self.items, self.rejected = self.items + len(plan.items), self.rejected + len(sidecar["rejects"])
        self.report(self.items)
        if self.rejected > self.items * self.cfg.max_reject_rate:
            check_rate(self.rejects(), self.items, self.cfg.max_reject_rate, self.out)

    def report(self, items: int) -> None:
        """Progress; workers are ahead of the shards that are finished, so a lower number is held back."""
        heed_stop_file(self.out)
        if items > self._reported:
            self._reported = items
            self._report(items, self.total)

    def report_within(self, items: int) -> None:
        """Progress of the shard being written here."""
        self.report(self.items + items)

    def rejects(self) -> list[Reject]:
        return [reject for name in sorted(self.rejects_of) for reject in self.rejects_of[name]]


def _finished(out: Path, plan: ShardPlan) -> Shard | None:
    """The shard an earlier run finished, or None; damaged ones are written again."""
    tar, sidecar = out / f"{plan.name}.tar", out / f"{plan.name}.json"
    try:
        facts = json.loads(sidecar.read_bytes())
        whole = facts["bytes"] == tar.stat().st_size and facts["sha256"] == sha256_of(tar)
        counted = len(facts["keys"]) + len(facts["rejects"]) == len(plan.items)
        if whole and counted and set(facts["keys"]) <= set(plan.keys):
            return Shard(str(tar), plan.name, plan.split, len(facts["keys"]), facts["bytes"], facts["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(
    cfg: ShardsConfig, make: Callable[[Any], Members], plans: list[ShardPlan], out: Path, done: _Done
) -> Iterator[tuple[ShardPlan, Shard]]:
    tasks = [ShardTask(plan, str(out)) for plan in plans]
    processes = min(cfg.processes, len(tasks))
    if processes <= 1:
        for task in tasks:
            yield task.plan, task.write(make, Progress.local(done.report_within))
        return
    try:
        yield from _in_processes(tasks, make, processes, done)
    except BrokenProcessPool:
        raise TesseraError(
            "a worker process died (out of memory?). The same line typed again goes on; with less memory:\n"
            "--workers 1  (in `tessera run` shards.workers=1)"
        ) from None


def _in_processes(
    tasks: list[ShardTask], make: Callable[[Any], Members], processes: int, done: _Done
) -> Iterator[tuple[ShardPlan, Shard]]:
    # Forking is quickest; it is unsafe where threads of others may hold locks (torch, a progress bar).
    quick = sys.platform == "linux" and threading.active_count() == 1 and "torch" not in sys.modules
    context = multiprocessing.get_context("fork" if quick else "spawn")
    counter, stop = context.Value("q", 0), context.Event()
    before = done.items
    with ProcessPoolExecutor(processes, context, begin_worker, (make, counter, stop)) as pool:
        pending: dict[Future[Shard], ShardTask] = {pool.submit(write_in_worker, task): task for task in tasks}
        try:
            while pending:
                finished, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                done.report(before + counter.value)
                for future in finished:
                    yield pending.pop(future).plan, future.result()
        finally:  # a stop, an error or too many rejects: workers leave at their next item
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _close(cfg: ShardsConfig, listing: Listing, plans: list[ShardPlan], done: _Done, out: Path) -> dict[str, Any]:
    rejects = done.rejects()
    check_rate(rejects, done.items, cfg.max_reject_rate, out, at_end=True)
    shards = [done.shards[plan.name] for plan in plans]
    samples = sum(shard.samples for shard in shards)
    assert samples + len(rejects) == len(listing.items)
    if not any(shard.samples for shard in shards if shard.split == "train"):
        raise DataError(f"no usable image of {cfg.source} is left for the split 'train'.")
    sweep(out)  # a worker of a killed run may have opened a file after this run's first sweep
    write_report(out, rejects)
    reasons = {"total": len(rejects), "reasons": counts(rejects)}
    modalities = sorted({"image"} | {_MODALITIES[e] for e in done.extensions if e in _MODALITIES})
    info = {
        "source": listing.kind, "classes": list(listing.classes), "image_size": cfg.size,
        "stored_side": cfg.stored_side, "command": _command(cfg), "rejects": reasons,
        "modalities": modalities, "settings": settings_of(cfg),
    }  # fmt: skip
    written = write_dataset(out, shards, info)
    return {
        "samples": samples, "splits": written["splits"], "shards": len(shards), "classes": len(listing.classes),
        "rejected": len(rejects), "reasons": reasons["reasons"], "bytes": sum(s.bytes for s in shards),
        "image_size": cfg.size, "modalities": modalities,
    }  # fmt: skip


def _command(cfg: ShardsConfig) -> str:
    defaults = ShardsConfig(source=cfg.source)
    before = settings_of(defaults)
    changed = [f"{name}={value}" for name, value in settings_of(cfg).items() if value != before[name]]
    return shlex.join(["tessera", "shard", cfg.source, "OUT", *changed])
