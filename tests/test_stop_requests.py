"""A request to stop, however often and in whatever way it comes: all that is finished is kept, exit code 85."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_prep import shard
from pipeline import checkpoint, train_loop
from pipeline.atomic_file import atomic_file
from pipeline.errors import Stopped
from pipeline.stopping import StopRequest, heed_stop_file, stop_signals
from pipeline.train_loop import Run
from pipeline.training_config import LoopConfig
from tests import spawn
from tests.source_folders import class_folders
from tests.test_sharding import config, files_of

MODULE = "tests.toy_training"


@pytest.mark.parametrize("world", [1, 2])
def test_a_request_that_every_rank_gets_and_a_launcher_passes_on_is_one_request(tmp_path: Path, world: int) -> None:
    processes = spawn.start(MODULE, [str(tmp_path), "steps=100000", "save=100000"], world)
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        for process in processes:
            process.send_signal(number)

    assert spawn.finish(processes) == [85] * world
    found = checkpoint.newest(tmp_path / "checkpoints")
    assert found is not None and found.step > 0


def a_run(tmp_path: Path, task: Any = None, tracker: Any = None) -> Run:
    backend: Any = SimpleNamespace(
        is_main=True, any=bool, barrier=lambda: None, mean=lambda values: values, device=SimpleNamespace(type="cpu")
    )
    batches: Any = None
    return Run(tmp_path, backend, task, batches, LoopConfig(steps=10), tracker)


def test_who_insists_ends_the_work_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(tmp_path)
    with stop_signals(), run.listening():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert run.stop_requested
        monkeypatch.setattr(train_loop, "INSISTS_AFTER", -1.0)
        with pytest.raises(StopRequest):
            signal.raise_signal(signal.SIGTERM)


def test_pauses_are_left_out_of_the_rate_wherever_they_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(train_loop.time, "monotonic", lambda: now[0])
    logged: list[dict[str, Any]] = []
    tracker = SimpleNamespace(log=lambda values, step: logged.append(values), images=lambda *_: None)

    def slowly(_: int) -> dict[str, Any]:
        now[0] += 500.0
        return {}

    run = a_run(tmp_path, SimpleNamespace(evaluate=slowly, paint=slowly, best=("loss", "min")), tracker)
    for step in range(1, 21):
        now[0] += 1.0
        if step == 19:  # a step before the line that is logged
            run.evaluate(step)
            run.paint(step)
    run.log({}, 20, images=8)
    assert logged[-1]["perf/images_per_second"] == pytest.approx(8.0)


@pytest.mark.parametrize("where", ["stage", "run"])
def test_a_stop_file_is_heeded_once(where: str, tmp_path: Path) -> None:
    (out := tmp_path / "codes").mkdir()
    heed_stop_file(out)
    path = (out if where == "stage" else tmp_path) / "STOP"
    path.touch()
    with pytest.raises(Stopped, match="the same line typed again resumes"):
        heed_stop_file(out)
    heed_stop_file(out)
    assert not path.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_file_stops_sharding_and_the_same_line_goes_on(workers: int, tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", "ab", 40)
    cfg = config(tmp_path / "photos", workers=workers)
    shard(cfg, tmp_path / "whole")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "STOP").touch()
    with pytest.raises(Stopped):
        shard(cfg, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists() and not list(tmp_path.glob("out/.*part*"))
    shard(cfg, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_two_processes_of_one_number_write_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "extraction.json"
    with atomic_file(path) as one:  # containers count their processes apart
        one.write(b"1")
        with atomic_file(path) as other:
            other.write(json.dumps([1, 2]).encode())
        assert path.read_bytes() == b"[1, 2]"
    assert path.read_bytes() == b"1" and [p.name for p in tmp_path.iterdir()] == ["extraction.json"]
