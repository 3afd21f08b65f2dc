"""log.txt: what a stage prints, kept beside what it makes. Progress bars and colours stay on the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

_REDRAW = re.compile(r"\x1b\[[0-9]*[A-KSTsu]|\r(?!\n)")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


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
