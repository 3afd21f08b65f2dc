"""Where runs live, and which run an argument means."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.artifacts import is_finished
from pipeline.errors import ConfigError, MissingInputError
from pipeline.schema import did_you_mean


def runs_dir(given: str | None) -> Path:
    """--runs, else TESSERA_RUNS, else ./runs."""
    return Path(given or os.environ.get("TESSERA_RUNS") or "runs")


def run_folder(text: str) -> Path:
    """The folder a RUN argument means: a path, or the name of a run in the runs folder; raises ConfigError."""
    runs = runs_dir(None)
    for folder in (Path(text), runs / text):
        if folder.is_dir():
            return folder
    names = sorted(path.name for path in runs.glob("*") if path.is_dir())
    hint = did_you_mean(text, names) if names else "\nMake one:  tessera run tiny"
    raise ConfigError(f"no run folder at '{text}' or '{runs / text}'.{hint}")


def finished_stage(run: Path, *names: str) -> Path:
    """The first finished stage folder of a run among `names`; raises MissingInputError saying what to run."""
    for name in names:
        if is_finished(run / name):
            return run / name
    wanted = " or ".join(f"'{name}'" for name in names)
    recipe = run / "recipe.yaml"
    raise MissingInputError(
        f"{run} has no finished stage {wanted}.\nRun it first:  tessera run {recipe if recipe.is_file() else 'RECIPE'}"
    )
