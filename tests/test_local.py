"""Local processes of one stage: they find each other, end together, and their worst exit code is the answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers import local
from launchers.train import refuse_lone_ranks
from pipeline.errors import ConfigError

RANKS = """
import json, os, signal, sys, time
from pathlib import Path
from launchers.local import die_with_parent

launched = die_with_parent()
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU",
         "OMP_NUM_THREADS")
facts = {name: os.environ.get(name) for name in names} | {"launched": launched, "pid": os.getpid()}
folder, rank = Path(sys.argv[1]), os.environ["RANK"]
if len(sys.argv) > 3 and sys.argv[3] == "listen":
    def stop(*_):
        time.sleep(0.3 * int(rank))
        sys.exit(85)
    signal.signal(signal.SIGTERM, stop)
(folder / f"{rank}.part").write_text(json.dumps(facts))
(folder / f"{rank}.part").rename(folder / f"{rank}.json")
code = sys.argv[2].split(",")[int(rank)]
if code == "wait":
    time.sleep(30)
sys.exit(int(code))
"""

GROUP = """
import sys
from launchers.local import launch
sys.exit(launch(sys.argv[2:], int(sys.argv[1]), module="ranks_of_a_test"))
"""


@pytest.fixture(autouse=True)
def a_module_of_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ranks_of_a_test.py").write_text(RANKS)
    repository = Path(__file__).resolve().parent.parent
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{repository}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def launched(folder: Path, codes: str, *more: str) -> int:
    return local.launch([str(folder), codes, *more], codes.count(",") + 1, module="ranks_of_a_test")


def facts(folder: Path, ranks: int) -> list[dict[str, object]]:
    deadline = time.monotonic() + 20
    while not all((folder / f"{rank}.json").exists() for rank in range(ranks)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def test_every_rank_knows_its_place(tmp_path: Path) -> None:
    assert launched(tmp_path, "0,0,0") == 0

    found = facts(tmp_path, 3)
    assert [rank["RANK"] for rank in found] == [rank["LOCAL_RANK"] for rank in found] == ["0", "1", "2"]
    assert {(rank["WORLD_SIZE"], rank["LOCAL_WORLD_SIZE"], rank["MASTER_ADDR"]) for rank in found} == {
        ("3", "3", "127.0.0.1")
    }
    assert len({rank["MASTER_PORT"] for rank in found}) == 1 and all(rank["launched"] for rank in found)
    threads = max(1, len(os.sched_getaffinity(0)) // 3)
    assert {rank["OMP_NUM_THREADS"] for rank in found} == {str(threads)}
    if not local.visible_devices():
        assert {rank["ACCELERATE_USE_CPU"] for rank in found} == {"1"}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [("0,85", 85), ("85,85", 85), ("85,3", 3), ("3,wait", 3), ("wait,2", 2), ("0,77", 1)],
)
def test_the_first_failure_is_the_answer_and_ends_the_rest(tmp_path: Path, codes: str, expected: int) -> None:
    began = time.monotonic()

    assert launched(tmp_path, codes) == expected
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stop_signal_reaches_every_rank_and_each_may_finish_saving(tmp_path: Path, number: signal.Signals) -> None:
    group = subprocess.Popen([sys.executable, "-c", GROUP, "2", str(tmp_path), "wait,wait", "listen"])
    facts(tmp_path, 2)

    group.send_signal(number)

    assert group.wait(timeout=15) == 85


def test_ranks_die_with_a_killed_launcher(tmp_path: Path) -> None:
    group = subprocess.Popen([sys.executable, "-c", GROUP, "2", str(tmp_path), "wait,wait", "listen"])
    pids = [int(str(rank["pid"])) for rank in facts(tmp_path, 2)]

    group.kill()
    group.wait()

    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ranks_without_a_gpu_are_told_the_line_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.train.visible_devices", lambda: 0)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    line = r"ACCELERATE_USE_CPU=1 accelerate launch .* --num_processes 2 -m launchers.train vqvae --config tiny"
    with pytest.raises(ConfigError, match=line):
        refuse_lone_ranks(2, "vqvae", "tiny")
    refuse_lone_ranks(1, "vqvae", "tiny")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    refuse_lone_ranks(2, "vqvae", "tiny")


def test_bare_tasks_of_srun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")  # what a batch script sees too
    refuse_lone_ranks(1, "vqvae", "tiny")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ConfigError, match="srun started 2 tasks without RANK and WORLD_SIZE"):
        refuse_lone_ranks(1, "vqvae", "tiny")
    monkeypatch.setenv("RANK", "0")
    refuse_lone_ranks(1, "vqvae", "tiny")
