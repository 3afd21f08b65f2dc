"""Run a whole recipe: every stage in order, skipping what is finished and resuming what is not."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from launchers.run_folders import runs_dir
from pipeline.config import Recipe, load_recipe
from pipeline.errors import ConfigError, Stopped, TesseraError
from pipeline.runner import Outcome, Planned, RunOptions, newest_picture, plan_run, run_recipe

EXAMPLE = "tessera run tiny vqvae.loop.steps=200 --until codes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, overrides and what to run of it."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the stem of one in configs/")
    parser.add_argument("overrides", nargs="*", metavar="stage.field=value", help="settings laid over the recipe")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--only", metavar="STAGE", help="run this stage alone; its inputs must be finished")
    parser.add_argument("--redo", metavar="STAGE", help="make this stage and those that read it again")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="processes of a trained stage (default: all GPUs, or 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--runs", metavar="DIR", help="folder of all runs (default: $TESSERA_RUNS or ./runs)")
    parser.add_argument("--json", action="store_true", help="print the plan or the results as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when every selected stage is finished."""
    from launchers.local import visible_devices
    from launchers.stages import STAGES

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    processes = arguments.processes if arguments.processes is not None else max(1, visible_devices())
    if processes < 1:
        raise ConfigError(f"--processes must be at least 1; got {processes}.")
    options = RunOptions(
        runs=runs_dir(arguments.runs),
        until=arguments.until,
        only=arguments.only,
        redo=arguments.redo,
        processes=processes,
        at_most=arguments.processes is None,
    )
    if arguments.dry_run:
        _print_plan(recipe, plan_run(recipe, STAGES, options), options, as_json=arguments.json)
        return 0
    say = partial(print, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    try:
        outcomes = run_recipe(recipe, STAGES, options, launch=partial(_launch, options.runs), say=say)
    except Stopped as stopped:
        if arguments.redo is None:
            raise
        raise Stopped(str(stopped).replace("typed again resumes", "without --redo resumes")) from stopped
    report = write_report(options.runs / recipe.name)
    if arguments.json:
        print(json.dumps({one.instance: one.results for one in outcomes}, indent=1))
    else:
        _print_end(outcomes, report)
    return 0


def _launch(runs: Path, one: Planned, recipe_file: Path) -> int:
    from launchers.local import launch

    arguments = [one.job.instance, "--config", str(recipe_file), "--runs", str(runs)]
    return launch(arguments, one.processes)


def write_report(run: Path) -> Path | None:
    """The report of a run; that it fails is said but never undoes what was trained."""
    try:
        from launchers.report import write_report as write

        return Path(write(run))
    except Exception as error:
        reason = str(error) if isinstance(error, TesseraError) else f"{type(error).__name__}: {error}"
        print(f"no report: {reason}\nTry again:  tessera report {run}", file=sys.stderr)
        return None


def _print_plan(recipe: Recipe, planned: list[Planned], options: RunOptions, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([one.as_json() for one in planned], indent=1))
        return
    print(f"{recipe.path} -> {options.runs / recipe.name}, seed {recipe.seed}")
    for one in planned:
        steps = f"{one.steps:,} steps" if one.steps else ""
        images = f"{one.images:,} images" if one.images else ""
        at = f"from step {one.at_step:,}" if one.at_step else ""
        processes = f"{one.processes} processes" if one.processes > 1 else ""
        facts = ", ".join(part for part in (one.state, at, steps, images, processes) if part)
        sources = [_source(one)] if one.job.stage.name == "shards" else map(str, one.job.inputs.values())
        reads = f"  reads {said}" if (said := ", ".join(sources)) else ""
        print(f"  {one.job.instance:<12} {facts}{reads}")


def _source(one: Planned) -> str:
    """Where the raw data lie, and that they do not, which a plan may precede."""
    from data_prep.sources.birds import NAME

    source = str(one.job.cfg.source)
    there = one.state == "finished" or source == NAME or Path(source).expanduser().exists()
    return source if there else f"{source} (not there yet)"


def _print_end(outcomes: list[Outcome], report: Path | None) -> None:
    if report is not None:
        print(f"report: {report}")
    pictures = {one.instance.partition("@")[0]: newest_picture(one.out) for one in outcomes}
    for stage in ("evaluation", "prior", *reversed(pictures)):
        if picture := pictures.get(stage):
            print(f"Open {picture}")
            return
