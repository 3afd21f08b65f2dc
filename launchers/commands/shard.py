"""Turn raw images into shards: class folders, metadata files, bare folders, tars of others, or `birds`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.config import Recipe, stage_config
from pipeline.errors import ConfigError
from pipeline.owner import owning
from pipeline.runner import headline

EXAMPLE = "tessera shard ~/photos data/photos --size 128 --val 0.05"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SOURCE, OUT and the settings asked for most; the others as field=value."""
    parser.add_argument("source", metavar="SOURCE", help="a folder of images or of tars, or `birds` (drawn, built in)")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the shards")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="any other field of the shards stage")
    parser.add_argument("--size", metavar="PX", help="side of the square training image")
    parser.add_argument("--val", metavar="SHARE", help="share of the samples kept for val")
    parser.add_argument("--count", metavar="N", help="samples to draw, or the most to take")
    parser.add_argument("--workers", metavar="N", help="worker processes")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when every shard is written; the same line typed again writes only what is missing.

    The folder holds shards and nothing else, no log and no manifest: the same bytes on every machine.
    """
    from data_prep.stage import STAGE, write_shards

    cfg = stage_config(_recipe(arguments), STAGE)
    with owning(arguments.out):
        results = write_shards(cfg, arguments.out)
    if arguments.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    else:
        print(f"{arguments.out}: {headline(results)}")
        print(f"Train on them with  shards: {{path: {arguments.out}}}  in a recipe.")
    return 0


def _recipe(arguments: argparse.Namespace) -> Recipe:
    from omegaconf import OmegaConf

    given = {name: getattr(arguments, name) for name in ("size", "val", "count", "workers")}
    items = [*(f"{name}={value}" for name, value in given.items() if value is not None), *arguments.overrides]
    try:
        section = OmegaConf.to_container(OmegaConf.from_dotlist(items))
    except Exception as error:  # OmegaConf's errors share no base with yaml's
        raise ConfigError(f"{' '.join(arguments.overrides)}: {' '.join(str(error).split())[:200]}") from error
    assert isinstance(section, dict)
    values = {"source": arguments.source, **{str(name): value for name, value in section.items()}}
    return Recipe("shards", Path("command line"), 0, {}, {"shards": values}, {}, {})
