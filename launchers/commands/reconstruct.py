"""Send pictures of any size through a run's autoencoder and back."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "tessera reconstruct runs/tiny photo.jpg --out reconstructed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, pictures and where to put the results."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of one in runs/")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="pictures, any size")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: RUN/reconstructed)")
    parser.add_argument("--device", metavar="DEVICE", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when every picture is written."""
    raise NotImplementedError
