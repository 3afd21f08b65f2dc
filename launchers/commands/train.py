"""Run one stage of a recipe in this process; its inputs must be finished."""

from __future__ import annotations

import argparse

from launchers.run_folders import runs_dir
from launchers.train import train_stage

EXAMPLE = "tessera train vqvae tiny vqvae.loop.steps=200"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """STAGE, RECIPE and overrides."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of the recipe, as in vqvae or prior@large")
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the stem of one in configs/")
    parser.add_argument("overrides", nargs="*", metavar="stage.field=value", help="settings laid over the recipe")
    parser.add_argument("--runs", metavar="DIR", help="folder of all runs (default: $TESSERA_RUNS or ./runs)")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the stage is finished."""
    return train_stage(arguments.stage, arguments.recipe, arguments.overrides, runs_dir(arguments.runs))
