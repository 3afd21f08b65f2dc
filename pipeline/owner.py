"""One owner per stage folder: a second run of the same stage is refused at once and told who holds it.

`owner.json` appears by a hard link, which fails if it exists, also on network file systems. The owner touches it every
10 s. A lock is stale when its process is gone from this host, when its Slurm job was requeued, or when nobody touched
it for 60 s. Two takers of one stale lock meet at a file named after the stale lock's token: one of them wins.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

OWNER = "owner.json"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Own a stage folder for the length of the block; raises ConfigError naming the holder when it is taken."""
    made_here = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    token = _acquire(folder / OWNER)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder / OWNER, token, ended, _leave), daemon=True, name="owner")
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if _read(folder / OWNER).get("token") == token:
            (folder / OWNER).unlink(missing_ok=True)
        if made_here and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # refused before anything was written


def _acquire(path: Path) -> str:
    mine = _claim()
    claim = path.with_name(f".{path.name}.{mine['token']}")
    claim.write_text(json.dumps(mine), encoding="utf-8")
    try:
        while True:
            try:
                _publish(claim, path)
                return str(mine["token"])
            except FileExistsError:
                holder = _read(path)
            if not holder and not path.exists():
                continue  # released between the link and the read
            if not _stale(path, holder, claim):
                raise ConfigError(_refusal(path, holder))
            if _replace(path, holder, claim):
                return str(mine["token"])
    finally:
        claim.unlink(missing_ok=True)


def _publish(claim: Path, path: Path) -> None:
    try:
        os.link(claim, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        os.write(descriptor, claim.read_bytes())
        os.close(descriptor)


def _claim() -> dict[str, Any]:
    return {
        "token": secrets.token_hex(8),
        "host": platform.node(),
        "space": _process_space(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _stale(path: Path, holder: dict[str, Any], claim: Path) -> bool:
    claim.touch()  # "now" by the clock of the file system, which on a cluster is not this host's
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return False
    if claim.stat().st_mtime - touched > STALE_SECONDS:
        return True
    mine = _claim()
    if all(holder.get(name) == mine[name] for name in ("host", "space")):
        start = _process_start(int(holder.get("pid", 0)))
        return start is None or start != holder.get("process_start")
    if mine["job"] is None or holder.get("job") != mine["job"]:
        return False
    if holder.get("restart") != mine["restart"]:  # a requeued job: its earlier life has ended everywhere
        return True
    time.sleep(1.5 * HEARTBEAT_SECONDS)  # another step of this job: dead if its heart does not beat
    return path.exists() and path.stat().st_mtime == touched


def _replace(path: Path, holder: dict[str, Any], claim: Path) -> bool:
    """Put `claim` in the place of a stale lock; False when someone else did, or is doing so."""
    turn = path.with_name(f".{path.name}.after-{holder.get('token', 'damaged')}")
    try:
        os.close(os.open(turn, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        time.sleep(0.05)
        if turn.exists() and time.time() - turn.stat().st_mtime > STALE_SECONDS:
            turn.unlink(missing_ok=True)  # its maker died between two lines
        return False
    try:
        if _read(path) != holder:  # whoever changed it had the turn before us
            return False
        claim.replace(path)
        return True
    finally:
        turn.unlink(missing_ok=True)


def _beat(path: Path, token: str, ended: threading.Event, on_lost: Callable[[Path], None]) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        try:
            holder = _read(path)
            if holder.get("token") == token:
                os.utime(path)
            elif holder:
                on_lost(path)
                return
        except OSError:
            continue  # the next beat tries again


def _leave(path: Path) -> None:
    """This process was asleep for so long that another took the folder over: writing on would damage its work."""
    print(f"{path.parent} was taken over by another run while this one was suspended; leaving it.", file=sys.stderr)
    sys.stderr.flush()
    os._exit(ConfigError.exit_code)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _process_start(pid: int) -> int | None:
    """When a process of this host started, in clock ticks since boot; None when there is none (or it is a zombie).

    Told apart from a later process with the same number; where /proc is missing every live process counts as the same.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return 0


def _process_space() -> str:
    """Containers of one host name may count processes apart: numbers compare only within one space."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _refusal(path: Path, holder: dict[str, Any]) -> str:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    job = f" (Slurm job {holder['job']})" if holder.get("job") else ""
    return (
        f"{path.parent} is in use by {who}{job} since {holder.get('since', '?')}: one run at a time may write it.\n"
        f"Wait for it, stop it (touch {path.parent / 'STOP'}), or write elsewhere (a run:  name=OTHER)"
    )
