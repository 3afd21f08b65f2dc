"""Stop signals where no training loop listens: SIGTERM, SIGINT and SIGUSR1 end the work at once; exit code 85."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest(BaseException):
    """Raised in the main thread by a stop signal; not an Exception, so that nothing on the way swallows it."""


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
