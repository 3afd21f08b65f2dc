"""Start a Python module in several real processes that train together over gloo, one thread each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    """A TCP port that is free on the loopback address right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What a launcher would export for this rank on a machine without a GPU."""
    return {
        **os.environ,
        "ACCELERATE_USE_CPU": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TESSERA_QUIET": "1",
    }


def start(module: str, arguments: Sequence[str], world: int) -> list[subprocess.Popen[str]]:
    """Start `python -m module *arguments` once per rank."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment(rank, world, port),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 240) -> list[int]:
    """Wait for all; when one fails its output is shown. Returns the exit codes."""
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    codes = [process.returncode for process in processes]
    for code, output in zip(codes, outputs, strict=True):
        if code not in (0, -9, 85):
            print(output)
    return codes


def run(module: str, arguments: Sequence[str], world: int) -> None:
    """Start, wait, and insist on success."""
    assert finish(start(module, arguments, world)) == [0] * world
