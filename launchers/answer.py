"""How a command ends: an exit code, and for an error one or two lines instead of a traceback."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
import traceback
import warnings

from pipeline.errors import ConfigError, Stopped, TesseraError
from pipeline.stopping import StopRequest, stop_signals

NO_PLACE = (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT, errno.EEXIST)
PATIENCE = 5.0
"""Seconds a silent rank waits before it ends; whoever ends first ends them all."""


def answer(arguments: argparse.Namespace) -> int:
    """Call `arguments.call`: 0 finished, 85 stopped on request, 2 usage or config, 3 bad data, 1 anything else."""
    if not arguments.debug:  # what libraries tell developers would bury what a stage tells its user
        warnings.filterwarnings("ignore", module=r"(torch|accelerate|deepspeed|transformers|wandb)\b")
    try:
        with stop_signals():
            code: int = arguments.call(arguments)
            return code
    except StopRequest:
        return _say(Stopped("stopped on request; the same line typed again resumes."))
    except BrokenPipeError:  # `tessera ... | head`
        return 1
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        return _say(error)


def _unknown(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in NO_PLACE and error.filename is not None:
        return f"cannot write {error.filename}: {error.strerror}. Make room or name another folder (--runs, --out)."
    return f"{type(error).__name__}: {error}\nAdd --debug to see where."


def _say(error: Exception) -> int:
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0 or not isinstance(error, ConfigError | Stopped):  # those are the same on every rank
        known = isinstance(error, TesseraError)
        line = str(error) if known else _unknown(error)
        prefix = "" if isinstance(error, Stopped) else "error: "
        print(f"{prefix}{f'rank {rank}: ' if rank else ''}{line}", file=sys.stderr, flush=True)
    elif isinstance(error, ConfigError):  # a launcher stops the others when one has ended: let rank 0 speak first
        time.sleep(PATIENCE)
        print(f"error: rank {rank}: {error}", file=sys.stderr, flush=True)  # still here: it is this rank's alone
    return error.exit_code if isinstance(error, TesseraError) else 1
