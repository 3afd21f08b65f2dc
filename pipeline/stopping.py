"""Stop requests where no training loop listens: SIGTERM, SIGINT, SIGUSR1 or a file STOP end the work; exit code 85."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
STOP_FILE = "STOP"


class StopRequest(BaseException):
    """Raised in the main thread by a stop signal; not an Exception, so that nothing on the way swallows it."""


def heed_stop_file(out: Path) -> None:
    """Raise Stopped where a file STOP lies in a stage's folder or in its run's; what is finished stays.

    The file is taken away: the same line typed again must resume, not stop again.
    """
    for path in (out / STOP_FILE, out.parent / STOP_FILE):
        if path.exists():
            path.unlink(missing_ok=True)
            raise Stopped(f"stopped on request ({path}); the same line typed again resumes.")


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raise StopRequest on a stop signal inside the block; a training loop inside may listen in its own way."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise StopRequest

    previous: dict[signal.Signals, Any] = {}
    try:
        for number in SIGNALS:
            previous[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread: whoever started the thread owns the signals
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
