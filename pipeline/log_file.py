"""log.txt: what a stage prints, kept beside what it makes. Progress bars and colours stay on the terminal."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

_REDRAW = re.compile(r"\x1b\[[0-9]*[A-KSTsu]|\r(?!\n)")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


PACKAGES = ("pipeline", "stages", "data_prep", "launchers")


class Messages(logging.Handler):
    """Warnings go to stderr (and so to the log), what is only good to know to the log alone."""

    def __init__(self, log: IO[str]) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        if record.levelno >= logging.WARNING:
            print(self.format(record), file=sys.stderr)
        elif not self._log.closed:
            self._log.write(self.format(record) + "\n")
            self._log.flush()


@contextmanager
def messages_to(log: IO[str]) -> Iterator[None]:
    """Let what our own packages have to say reach the log for the length of the block."""
    handler, loggers = Messages(log), [logging.getLogger(name) for name in PACKAGES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


class Copied:
    """A text stream that also writes to a log; everything else is asked of the stream itself."""

    def __init__(self, stream: TextIO, log: IO[str]) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        """Write to both; what redraws a line of the terminal is not kept."""
        if not _REDRAW.search(text) and not self._log.closed:
            self._log.write(_COLOUR.sub("", text))
            self._log.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def copied_to(path: Path) -> Iterator[IO[str]]:
    """Copy stdout and stderr to the end of a file for the length of the block; yields the file."""
    out, err = sys.stdout, sys.stderr
    with path.open("a", encoding="utf-8", errors="replace") as log:
        sys.stdout, sys.stderr = Copied(out, log), Copied(err, log)
        try:
            yield log
        finally:
            sys.stdout, sys.stderr = out, err
