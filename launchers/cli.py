"""The command `tessera`. Torch-free until a command needs it: a wrong recipe answers in under two seconds.

tessera run tiny
tessera sample runs/tiny --class 3 -n 16
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from launchers.answer import answer
from launchers.commands import evaluate, reconstruct, report, run, sample, shard, train, verify
from pipeline.schema import did_you_mean

COMMANDS = (run, shard, verify, train, sample, reconstruct, evaluate, report)
_OVERRIDE = re.compile(r"[A-Za-z_][\w@.-]*=.*", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 finished, 85 stopped on request, 2 usage or config, 3 bad data, 1 else."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not (hasattr(arguments, "overrides") and all(_OVERRIDE.fullmatch(item) for item in rest)):
        hints = (did_you_mean(item.partition("=")[0], arguments.flags) for item in rest if item.startswith("-"))
        hint = next((hint for hint in hints if hint.endswith("?")), "")
        parser.error(f"unrecognized arguments: {' '.join(rest)}.{hint}  (tessera {arguments.command} --help)")
    if rest:  # overrides written after a flag
        arguments.overrides = [*arguments.overrides, *rest]
    return answer(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command that works."""
    parser = argparse.ArgumentParser(
        prog="tessera",
        description="From raw files to a model that paints.",
        epilog="Example:  tessera run tiny  &&  tessera sample runs/tiny --class 0\nEach command has --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tessera {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or "").partition("\n")[0].rstrip(".")
        command = commands.add_parser(
            name,
            help=(summary[0].lower() + summary[1:]).partition(":")[0],
            description=f"{summary}.",
            epilog=f"Example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(call=module.call, flags=re.findall(r"(?<!\S)\[?(--[a-z-]+)", command.format_usage()))
    return parser


def _version() -> str:
    try:
        return version("tessera-vq")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
