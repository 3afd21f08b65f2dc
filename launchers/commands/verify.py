"""Check a folder of shards: every kind of damage is found and named, nothing in it is executed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipeline.errors import DataError

EXAMPLE = "tessera verify data/photos"
SHOWN = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SHARDS."""
    parser.add_argument("shards", metavar="SHARDS", type=Path, help="a folder of shards, ours or made by others")
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when nothing is wrong, 3 when something is; one line per problem."""
    from data_prep.verify import verify

    problems = verify(arguments.shards)
    if arguments.json:
        print(json.dumps({"shards": str(arguments.shards), "problems": problems}, indent=1, ensure_ascii=False))
        return DataError.exit_code if problems else 0
    for line in problems[:SHOWN]:
        print(line)
    if len(problems) > SHOWN:
        print(f"... and {len(problems) - SHOWN} more (--json lists them all)")
    print(f"{arguments.shards}: {f'{len(problems)} problems' if problems else 'nothing wrong'}")
    return DataError.exit_code if problems else 0
