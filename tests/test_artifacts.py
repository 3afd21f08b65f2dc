"""Manifests, fingerprints and the one owner of a stage folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import artifacts, owner
from pipeline.errors import ConfigError, DataError, MissingInputError


def written(folder: Path, **given: Any) -> dict[str, Any]:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "weights").write_bytes(b"abc")
    values = {"stage": "vqvae", "config": {"width": 4}, "inputs": {"shards": "f00"}, "results": {}, "makes": ("model",)}
    return artifacts.write_manifest(folder, **{**values, **given})


def test_the_fingerprint_depends_on_what_was_made_and_on_nothing_else(tmp_path: Path) -> None:
    first = written(tmp_path / "a", results={"seconds": 3})
    second = written(tmp_path / "b", results={"seconds": 9}, config={"width": 8})

    assert first["fingerprint"] == second["fingerprint"] == artifacts.fingerprint(tmp_path / "a")
    (tmp_path / "b" / "model" / "weights").write_bytes(b"abd")
    third = artifacts.write_manifest(
        tmp_path / "b", stage="vqvae", config={}, inputs={}, results={}, makes=("model/weights",)
    )
    assert third["fingerprint"] != first["fingerprint"]


def test_a_stage_that_made_nothing_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(DataError, match="without making 'model'"):
        artifacts.write_manifest(tmp_path, stage="x", config={}, inputs={}, results={}, makes=("model",))
    assert not artifacts.is_finished(tmp_path)


def test_a_damaged_or_robbed_folder_says_how_to_make_it_again(tmp_path: Path) -> None:
    folder = tmp_path / "vqvae"
    with pytest.raises(MissingInputError, match=r"no manifest.json"):
        artifacts.read_manifest(folder)
    written(folder)
    (folder / "model" / "weights").unlink()
    with pytest.raises(DataError, match=r"'model/weights' is gone: run it again, --redo vqvae"):
        artifacts.fingerprint(folder)
    (folder / "manifest.json").write_text('{"format": 1')
    with pytest.raises(DataError, match="damaged"):
        artifacts.read_manifest(folder)


def test_env_json_holds_no_variables_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush-hush")

    assert "hush-hush" not in json.dumps(artifacts.environment())
    assert artifacts.environment()["versions"]["numpy"]


HOLD = """
import sys, time
from pathlib import Path
from pipeline.owner import owning
with owning(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    return process


def test_a_second_owner_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    process = holding(tmp_path)
    try:
        with (
            pytest.raises(ConfigError, match=rf"in use by process {process.pid} on ") as refused,
            owner.owning(tmp_path),
        ):
            pass
        assert refused.value.exit_code == 2
    finally:
        process.kill()
        process.wait()
    with owner.owning(tmp_path):  # its process is gone, so its lock is stale at once
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def left(folder: Path, **given: Any) -> Path:
    """A lock as another host would have left it."""
    lock = {**owner._claim(), "host": "elsewhere", "token": "theirs", "job": None, **given}
    (folder / "owner.json").write_text(json.dumps(lock))
    return folder / "owner.json"


def test_a_lock_of_another_host_is_stale_after_a_minute_without_heartbeat(tmp_path: Path) -> None:
    lock = left(tmp_path)
    with pytest.raises(ConfigError, match="on elsewhere"), owner.owning(tmp_path):
        pass
    os.utime(lock, (time.time() - 61, time.time() - 61))
    with owner.owning(tmp_path):
        pass


def test_a_requeued_slurm_job_takes_its_own_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left(tmp_path, job="77", restart="0")
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with pytest.raises(ConfigError, match="Slurm job 77"), owner.owning(tmp_path):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with owner.owning(tmp_path):
        pass


def test_a_later_process_with_the_same_number_is_not_the_owner(tmp_path: Path) -> None:
    left(tmp_path, host=owner._claim()["host"], process_start=1)
    with owner.owning(tmp_path):
        pass


def test_of_many_takers_of_one_stale_lock_exactly_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for attempt in range(20):
        lock = left(tmp_path, token=f"dead{attempt}")
        os.utime(lock, (1, 1))
        won, start = [], threading.Barrier(8)

        def take(won: list[str] = won, start: threading.Barrier = start) -> None:
            start.wait()
            with contextlib.suppress(ConfigError):
                won.append(owner._acquire(tmp_path / "owner.json"))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and json.loads(lock.read_text())["token"] == won[0]
        lock.unlink()


def test_the_heart_beats_and_a_robbed_owner_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "HEARTBEAT_SECONDS", 0.02)
    lost: list[Path] = []
    monkeypatch.setattr(owner, "_leave", lost.append)
    with owner.owning(tmp_path):
        lock = tmp_path / "owner.json"
        os.utime(lock, (1, 1))
        time.sleep(0.2)
        assert lock.stat().st_mtime > 1
        left(tmp_path)
        time.sleep(0.2)
    assert lost == [lock]
    assert json.loads(lock.read_text())["token"] == "theirs", "another's lock is not ours to remove"


def test_a_killed_owner_leaves_nothing_that_stops_the_next(tmp_path: Path) -> None:
    for _ in range(3):
        process = holding(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with owner.owning(tmp_path):
        pass
