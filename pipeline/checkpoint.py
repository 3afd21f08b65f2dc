"""Checkpoints that are either whole or not there.

A checkpoint is written aside, hashed, synced and renamed; its MANIFEST.json is written last and holds the sha256 of
every file, so one flipped bit, a missing file or files of two steps are found before anything is loaded. The last k
and the best stay; a damaged one is passed over with a warning. Only tensors (safetensors) and JSON are ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.backend import Backend
    from pipeline.player import Player

MANIFEST = "MANIFEST.json"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, its step and what was stored beside the tensors."""

    folder: Path
    step: int
    state: dict[str, Any]


def save(
    folder: Path, step: int, players: dict[str, Player], state: dict[str, Any], backend: Backend, keep: int
) -> None:
    """Write `folder/step-XXXXXXXX`; every rank enters, rank 0 returns only when it is on disk.

    Args:
        folder: the stage's `checkpoints` folder.
        step: finished optimizer steps.
        players: name -> player; their state is stored as tensors.
        state: JSON, must hold `best_step` (or None): that checkpoint is never deleted.
        keep: how many of the newest stay.
    """
    final = folder / f"step-{step:08d}"
    aside = folder / f"tmp.{final.name}"
    if backend.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    backend.barrier()
    for name, player in players.items():
        if backend.is_main:
            _write_tensors(player.state(), aside / f"{name}.safetensors")
        shard = player.shard_state()
        if shard:
            _write_tensors(shard, aside / f"{name}-rank{backend.rank:05d}.safetensors")
    backend.barrier()
    if backend.is_main:
        counts = {name: player.steps for name, player in players.items()}
        _commit(aside, final, {**state, "step": step, "world": backend.world, "player_steps": counts})
        _retain(folder, step, keep, state.get("best_step"))
    backend.barrier()


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that verifies; what was half written is swept aside, what is damaged is named."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        problem = _problem(candidate)
        if problem is None:
            state = json.loads((candidate / STATE).read_text())
            return Checkpoint(candidate, state["step"], state)
        warnings.warn(f"checkpoint {candidate} is passed over: {problem}; trying the one before it.", stacklevel=2)
    return None


def load(checkpoint: Checkpoint, players: dict[str, Player], backend: Backend) -> None:
    """Give every player its state back; every rank enters."""
    for name, player in players.items():
        tensors = load_file(checkpoint.folder / f"{name}.safetensors")
        shard_path = checkpoint.folder / f"{name}-rank{backend.rank:05d}.safetensors"
        shard = load_file(shard_path) if shard_path.exists() else {}
        try:
            player.load_state(tensors, shard, checkpoint.state["player_steps"][name])
        except RuntimeError as error:  # names that are missing, or shapes
            raise ConfigError(
                f"{checkpoint.folder} holds another '{name}' than this recipe builds here: "
                f"{str(error).splitlines()[-1].strip()[:120]}\nStart that stage anew with --redo."
            ) from error


def sweep(folder: Path) -> None:
    """Delete what a killed process left half written."""
    for leftover in [*folder.glob("tmp.*"), *folder.glob("old.*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def _write_tensors(tensors: dict[str, Any], path: Path) -> None:
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)


def _commit(aside: Path, final: Path, state: dict[str, Any]) -> None:
    (aside / STATE).write_text(json.dumps(state, indent=1))
    files = {path.name: _sha256(path) for path in sorted(aside.iterdir())}
    for name in files:
        (aside / name).chmod(0o644)  # safetensors writes 0600, which locks a group out of resuming
        _sync(aside / name)
    manifest = aside / MANIFEST
    manifest.write_text(json.dumps({"step": state["step"], "files": files}, indent=1))
    _sync(manifest)
    _sync(aside)
    if final.exists():  # the same step saved again, by a run resumed before it
        doomed = final.with_name(f"old.{final.name}.{time.time_ns()}")
        final.rename(doomed)
        aside.rename(final)
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        aside.rename(final)
    _sync(final.parent)


def _retain(folder: Path, step: int, keep: int, best_step: int | None) -> None:
    """Delete all but the newest up to this step and the best; those after it were damaged, or the run went back."""
    kept = set([path for path in sorted(folder.glob("step-*")) if path.name <= f"step-{step:08d}"][-keep:])
    for candidate in sorted(folder.glob("step-*")):
        if candidate in kept or candidate.name == f"step-{best_step or -1:08d}":
            continue
        doomed = candidate.with_name(f"old.{candidate.name}.{time.time_ns()}")
        candidate.rename(doomed)  # renamed first: a kill inside rmtree never leaves half a checkpoint under its name
        shutil.rmtree(doomed, ignore_errors=True)


def _problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None when it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        step, files = manifest["step"], dict(manifest["files"])
        named_for_it = folder.name == f"step-{step:08d}" and STATE in files
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or damaged"
    if not named_for_it:
        return f"{MANIFEST} is that of step {step}"
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _sha256(path) != digest:
            return f"{name} is damaged (sha256 differs)"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
