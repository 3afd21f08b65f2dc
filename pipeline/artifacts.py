"""A stage's folder: its manifest, written last and meaning 'finished', and the fingerprint that names what it made.

The fingerprint is a sha256 over {path: sha256} of what the stage makes: no times, hosts or speeds, so the same work
done twice has the same name, and codes of another tokenizer are told apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.atomic_file import write_atomically
from pipeline.errors import DataError, MissingInputError

MANIFEST = "manifest.json"
FORMAT = 1
_LIBRARIES = ("tessera-vq", "torch", "accelerate", "deepspeed", "transformers", "numpy", "webdataset", "wandb")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made_files(out: Path, makes: Iterable[str]) -> dict[str, str]:
    """{path under `out`: sha256} of files and folders a stage made; raises DataError when one is missing or empty."""
    found: dict[str, str] = {}
    for name in makes:
        path = out / name
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not files or not path.exists():
            raise DataError(f"{out}: the stage ended without making '{name}', so it is not finished.")
        found |= {file.relative_to(out).as_posix(): file_sha256(file) for file in files}
    return found


def combined_fingerprint(parts: Mapping[str, str]) -> str:
    """One sha256 over {path: sha256}, whatever the order."""
    return hashlib.sha256(json.dumps(dict(sorted(parts.items()))).encode()).hexdigest()


def write_manifest(
    out: Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    results: Mapping[str, Any],
    makes: Iterable[str],
) -> dict[str, Any]:
    """Fingerprint what was made and write the manifest; the stage is finished from here on.

    Args:
        config: the identity part of the stage's config, as JSON holds it.
        inputs: {stage name: fingerprint} of what the stage read.
    """
    made = made_files(out, makes)
    manifest = {
        "format": FORMAT,
        "stage": stage,
        "fingerprint": combined_fingerprint(made),
        "config": dict(config),
        "inputs": dict(sorted(inputs.items())),
        "makes": made,
        "results": dict(results),
    }
    write_json(out / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage; raises MissingInputError (not finished) or DataError (damaged)."""
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingInputError(
            f"{folder} has no {MANIFEST}: the stage did not run, or was stopped before it finished."
        )
    try:
        manifest: Any = json.loads(path.read_text(encoding="utf-8"))
        complete = {"fingerprint", "config", "inputs", "makes", "results"} <= set(manifest)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): run the stage again with --redo {folder.name}.") from error
    if not complete or not isinstance(manifest, dict):
        raise DataError(f"{path} is not a manifest of Tessera: run the stage again with --redo {folder.name}.")
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path} has format {manifest.get('format')}, this Tessera reads {FORMAT}: update Tessera.")
    return manifest


def is_finished(folder: Path) -> bool:
    """Whether the stage's manifest is there."""
    return (folder / MANIFEST).is_file()


def fingerprint(folder: Path) -> str:
    """What a finished stage's folder is called by its readers; also raises when something it made has gone."""
    manifest = read_manifest(folder)
    for name in manifest["makes"]:
        if not (folder / name).is_file():
            raise DataError(f"{folder} says it is finished but '{name}' is gone: run it again, --redo {folder.name}.")
    return str(manifest["fingerprint"])


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON under its name only when complete."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=False, default=_jsonable) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping, or {} when the file is absent or damaged; for files that only inform."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _jsonable(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and torch numbers and arrays
        return value.tolist()
    raise TypeError(f"results must be JSON; {type(value).__name__} is not.")


def environment() -> dict[str, Any]:
    """Where and with what a stage ran, for env.json. No variables of the environment: they hold secrets."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
