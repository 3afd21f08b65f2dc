"""Measure a finished run: reconstruction, codes and samples."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from functools import partial

from launchers.commands.run import write_report
from launchers.run_folders import run_folder
from pipeline.config import NAME, load_recipe, used_folders
from pipeline.errors import ConfigError
from pipeline.runner import RunOptions, run_recipe

EXAMPLE = "tessera evaluate runs/tiny --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, overrides and --redo."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of one in runs/")
    parser.add_argument("overrides", nargs="*", metavar="evaluation.field=value", help="settings laid over the recipe")
    parser.add_argument("--redo", action="store_true", help="measure again though it is finished")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the figures are there; they are printed."""
    from launchers.stages import STAGES

    run = run_folder(arguments.run)
    if strange := [one for one in arguments.overrides if not re.match(r"evaluation(@[\w.-]+)?\.", one)]:
        raise ConfigError(f"'{strange[0]}' is no setting of the evaluation: write evaluation.field=value.")
    if not (run / "recipe.yaml").is_file():
        raise ConfigError(f"{run} has no recipe.yaml: it is not the folder of a run.")
    run = run.resolve()  # its name is that of the folder, by whatever path it was found
    recipe = load_recipe(run / "recipe.yaml", arguments.overrides)
    used = {name: str(folder) for name, folder in used_folders(run).items()}
    recipe = replace(recipe, name=run.name, use=used)
    if NAME.fullmatch(run.name):  # the folder may have been renamed
        recipe.data["name"] = run.name
    recipe.sections.setdefault("evaluation", {})
    options = RunOptions(runs=run.parent, only="evaluation", redo="evaluation" if arguments.redo else None)
    say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    outcome = run_recipe(recipe, STAGES, options, launch=lambda one, _: 1, say=say)[0]
    report = write_report(run)
    if arguments.json:
        print(json.dumps(outcome.results, indent=1))
    elif report is not None:
        print(f"report: {report}")
    return 0
