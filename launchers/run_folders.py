"""Where runs live, and which run an argument means."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.artifacts import is_finished
from pipeline.config import used_folders
from pipeline.errors import ConfigError, MissingInputError
from pipeline.schema import did_you_mean


def runs_dir(given: str | None) -> Path:
    """--runs, else TESSERA_RUNS, else ./runs."""
    return Path(given or os.environ.get("TESSERA_RUNS") or "runs")


def run_folder(text: str) -> Path:
    """The folder a RUN argument means: a path, or the name of a run in the runs folder; raises ConfigError."""
    runs = runs_dir(None)
    found = [folder for folder in (Path(text), runs / text) if folder.is_dir()]
    for folder in found:
        if (folder / "recipe.yaml").is_file() or any(folder.glob("*/manifest.json")):
            return folder  # a folder of data may have the name of a run
    if found:
        return found[0]
    names = sorted(path.name for path in runs.glob("*") if path.is_dir())
    hint = did_you_mean(text, names) if names else "\nMake one:  tessera run tiny"
    places = dict.fromkeys(f"'{folder}'" for folder in (Path(text), runs / text))  # a whole path is one place
    raise ConfigError(f"no run folder at {' or '.join(places)}.{hint}")


def finished_stage(run: Path, name: str) -> Path:
    """The finished folder of a run's stage, made by it or named under `use` in its recipe.

    Raises:
        MissingInputError: it is not finished; says what to run.
    """
    recipe = run / "recipe.yaml"
    for folder in (run / name, used_folders(run).get(name)):
        if folder is not None and is_finished(folder):
            return folder
    raise MissingInputError(
        f"{run} has no finished stage '{name}'.\nRun it first:  tessera run {recipe if recipe.is_file() else 'RECIPE'}"
    )
