"""One stage, one rank: what accelerate, torchrun and `tessera run --processes` start.

accelerate launch --config_file accelerate_config.yaml --num_processes 4 -m launchers.train vqvae --config birds
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from launchers.answer import answer
from launchers.local import die_with_parent, visible_devices
from launchers.run_folders import runs_dir
from pipeline.config import load_recipe
from pipeline.errors import ConfigError
from pipeline.runner import RunOptions, headline, newest_picture, plan_run, write_recipe
from pipeline.stage_run import run_stage


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage and return the exit code of this rank."""
    launched = die_with_parent()
    parser = argparse.ArgumentParser(
        prog="launchers.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("stage", metavar="STAGE")
    parser.add_argument("overrides", nargs="*", metavar="stage.field=value")
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a YAML file, or the stem of one in configs/")
    parser.add_argument("--runs", metavar="DIR", help="folder of all runs (default: $TESSERA_RUNS or ./runs)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_intermixed_args(argv)
    arguments.call = lambda a: train_stage(a.stage, a.config, a.overrides, runs_dir(a.runs), quiet=launched)
    return answer(arguments)


def train_stage(stage: str, config: str | Path, overrides: Sequence[str], runs: Path, *, quiet: bool = False) -> int:
    """Run one stage of a recipe in this process, which may be one rank of several; `quiet` leaves the end unsaid."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    refuse_lone_ranks(world, stage, config)
    from launchers.stages import STAGES

    recipe = load_recipe(config, overrides)
    planned = plan_run(recipe, STAGES, RunOptions(runs=runs, only=stage, processes=world))
    one = next((one for one in planned if one.job.instance == stage), planned[0])
    if world > 1 and one.processes == 1:
        raise ConfigError(
            f"stage '{stage}' runs in one process; start it without a launcher:  tessera train {stage} ..."
        )
    if rank == 0 and Path(config) != runs / recipe.name / "recipe.yaml":
        write_recipe(recipe, runs / recipe.name)
    skipped = one.job.finished
    results = run_stage(one.job)
    if rank == 0 and not quiet:
        print(f"{stage}: {'finished before, skipped' if skipped else 'finished'}. {headline(results)}")
        if picture := newest_picture(one.job.out):
            print(f"  picture: {picture}")
    return 0


def refuse_lone_ranks(world: int, stage: str, config: str | Path) -> None:
    """Ranks that do not know of one another would each train alone, silently: refuse it.

    So it is for several of them without a GPU and without ACCELERATE_USE_CPU, and for bare tasks of `srun`.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))  # srun's own: a batch script has it not
    if tasks > 1 and "RANK" not in os.environ:
        raise ConfigError(
            f"srun started {tasks} tasks without RANK and WORLD_SIZE: each would train alone. "
            "Start a launcher on each node:\n"
            "srun --ntasks-per-node 1 accelerate launch --num_machines ... (README, Several processes); runs that are "
            "meant to be apart say RANK=0 WORLD_SIZE=1"
        )
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if world > 1 and not on_cpu and not visible_devices():
        raise ConfigError(
            f"{world} processes but no GPU: each would train alone. On CPU type:\n"
            f"ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes {world} "
            f"-m launchers.train {stage} --config {config}"
        )


def leave(code: int) -> NoReturn:
    """End this process now, with everything written.

    The ordinary way out runs C++ destructors while threads of the collectives may still live: a rank whose work was
    done, its group left and its files closed, was seen to abort there (`terminate called without an active exception`,
    ZeRO-2 on gloo), which a scheduler takes for a failure.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
