"""Write report.html of a run: one self-contained page, samples first."""

from __future__ import annotations

import argparse

from launchers.run_folders import run_folder

EXAMPLE = "tessera report runs/tiny"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of one in runs/")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the page is written; its path is printed."""
    from launchers.report import write_report

    print(write_report(run_folder(arguments.run)))
    return 0
