"""Lines of the text files that data sets come with."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import DataError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, line without blanks at its ends); empty lines are passed over.

    Raises:
        DataError: the file is no UTF-8, or the system refuses to read it.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: {_what(error)}. Fetch the file anew.") from None


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of a CSV file; empty lines are passed over. Raises DataError as `read_lines` does."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise DataError(f"{path}: {_what(error)}. Fetch the file anew.") from None


def _what(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 ({error.reason} at byte {error.start})"
    return str(getattr(error, "strerror", None) or error)
