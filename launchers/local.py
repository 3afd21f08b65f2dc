"""Several processes of one stage on this machine, without accelerate's launcher: `tessera run --processes N`.

The processes find each other by RANK, WORLD_SIZE and MASTER_PORT. Stop signals are passed on to all of them; when one
dies the rest are ended; the exit code is that of the first failure, and 85 when all stopped on request.
"""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import Stopped
from pipeline.stopping import SIGNALS

GRACE_SECONDS = 3.0
"""Time the others have after one process failed: without it they can save nothing."""
STOP_SECONDS = 600.0
"""Time the others have after one process stopped on request: they may be saving."""
PARENT = "TESSERA_LAUNCHER_PID"

Rank = subprocess.Popen[bytes]


def visible_devices() -> int:
    """CUDA devices this process may use, counted without importing torch; 0 on a CPU build of torch."""
    try:
        if version("torch").endswith("+cpu"):
            return 0
    except PackageNotFoundError:
        return 0
    present = sum(1 for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    return min(present, sum(device.strip() not in ("", "-1") for device in chosen.split(",")))


def launch(arguments: Sequence[str], processes: int, *, module: str = "launchers.train") -> int:
    """Run `python -m module arguments` in `processes` ranks of one group and return the group's exit code."""
    port = _free_port()
    ranks = [
        subprocess.Popen([sys.executable, "-m", module, *arguments], env=_environment(rank, processes, port))
        for rank in range(processes)
    ]
    try:
        with _passing_signals_on(ranks) as passed:
            return _wait(ranks, passed)
    finally:
        _signal(ranks, signal.SIGKILL)


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    env = dict(os.environ)
    env |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), PARENT: str(os.getpid())}
    if not visible_devices():
        env["ACCELERATE_USE_CPU"] = "1"
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    return env


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> bool:
    """Called by a rank: when the process that started it is killed, so is the rank, and its owner lock goes (Linux).

    Returns whether `launch` started this process.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is not None and sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # 1: PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # it died before the line above
            os._exit(1)
    return parent is not None


@contextmanager
def _passing_signals_on(ranks: list[Rank]) -> Iterator[list[int]]:
    """A stop signal to this process reaches every rank; yields the signals that were passed on."""
    passed: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        passed.append(number)
        _signal(ranks, signal.SIGTERM)

    previous: dict[signal.Signals, Any] = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield passed
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(ranks: list[Rank], passed: list[int]) -> int:
    """Wait for all. After a failure the others are ended; after a stop they may finish saving."""
    first, deadline = 0, math.inf
    while None in [rank.poll() for rank in ranks]:  # a list, so that every rank is polled
        if not first and (first := _failure(ranks, passed)):
            stopped = first == Stopped.exit_code
            deadline = time.monotonic() + (STOP_SECONDS if stopped else GRACE_SECONDS)
            if not stopped:  # ranks that stop have agreed on it; a signal now would cut their saving short
                _signal(ranks, signal.SIGTERM)
        if time.monotonic() > deadline:
            _signal(ranks, signal.SIGKILL)
        time.sleep(0.05)
    killed = time.monotonic() > deadline
    return first if killed or first not in (0, Stopped.exit_code) else _failure(ranks, passed)


def _failure(ranks: list[Rank], passed: list[int]) -> int:
    """The exit code of the group so far: a hard failure before a stop, 0 when nothing went wrong."""
    codes = [rank.returncode for rank in ranks if rank.returncode not in (None, 0)]
    if passed:  # a rank that was still starting up dies of the signal itself
        codes = [Stopped.exit_code if code == -signal.SIGTERM else code for code in codes]
    hard = [code if code in (2, 3) else 1 for code in codes if code != Stopped.exit_code]
    return hard[0] if hard else Stopped.exit_code if codes else 0


def _signal(ranks: list[Rank], number: signal.Signals) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(number)
