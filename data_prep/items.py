"""What a source lists: one light entry per sample to be, with places to read from instead of payloads."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.rejects import RejectedError
from pipeline.errors import DataError
from pipeline.samples import MAX_MEMBER_BYTES

Members = dict[str, bytes]
PASSING = frozenset({errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT})
"""Faults that say nothing of the file: left out for one of these it would be missing for good."""


class Place(NamedTuple):
    """Bytes of a file: all of it (`offset` None) or a stretch. `size` is -1 where no file was found."""

    path: str
    size: int
    offset: int | None = None

    @property
    def suffix(self) -> str:
        """Lower-case extension without the dot."""
        return Path(self.path).suffix[1:].lower()

    def read(self, most: int = MAX_MEMBER_BYTES) -> bytes:
        """The bytes, at most `most` of them.

        Raises:
            RejectedError: missing, unreadable, empty, too large or not a regular file.
            DataError: the disk or the system failed, and the file may be whole.
        """
        try:
            if not stat.S_ISREG(Path(self.path).stat().st_mode):  # opening a pipe would wait for ever
                raise RejectedError("unreadable_file", "not a regular file")
            with Path(self.path).open("rb") as file:
                file.seek(self.offset or 0)
                payload = file.read((most if self.offset is None else min(self.size, most)) + 1)
        except FileNotFoundError:
            raise RejectedError("missing_file", "no such file") from None
        except OSError as error:
            if error.errno in PASSING:
                raise DataError(
                    f"{printable(self.path)}: {error.strerror}. The same line typed again goes on from here."
                ) from error
            raise RejectedError("unreadable_file", error.strerror or type(error).__name__) from None
        if len(payload) > most:
            raise RejectedError("too_large_file", f"more than {most >> 20} MiB")
        payload = payload if self.offset is None else payload[: self.size]
        if not payload:
            raise RejectedError("empty_file", "0 bytes")
        return payload


@dataclass(frozen=True, slots=True)
class Item:
    """One sample to be. `source` names it in reports and decides its split; `split` is set where the source says."""

    source: str
    split: str | None = None
    image: Place | None = None
    label: int | None = None
    captions: tuple[str, ...] = ()
    text: Place | None = None
    one_per_line: bool = False
    """Every line of `text` is a caption, instead of all of it one."""
    audio: Place | None = None
    pair: Place | None = None
    """The condition picture of an image-to-image pair."""
    record: Place | None = None
    """JSON of another tool."""
    facts: dict[str, Any] = field(default_factory=dict)
    """`attributes` and `metadata` for the sample's `.json`."""
    refused: tuple[str, str] | None = None
    """Reason and detail where listing already found it unusable."""

    def mark(self) -> list[Any]:
        """What tells whether a source changed since the plan was made: names, sizes, labels, words."""
        places = (self.image, self.text, self.audio, self.pair, self.record)
        sizes = [None if place is None else place.size for place in places]
        return [self.source, self.split, self.label, self.captions, self.facts, sizes]


@dataclass(frozen=True)
class Listing:
    """A listed source. `make` turns an item into members in a worker process; it raises RejectedError."""

    kind: str
    classes: tuple[str, ...]
    items: list[Item]
    make: Callable[[Item], Members]


def printable(path: str) -> str:
    """A path as text, also where its bytes are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def file_place(path: str) -> Place:
    """A whole file, with its size now; -1 where it is missing."""
    try:
        return Place(path, Path(path).stat().st_size)
    except OSError:
        return Place(path, -1)


def label_text(value: Any) -> str | None:
    """A class name or number as text; None where it is missing, which data sets also write as -1.

    Whole numbers beside missing cells become floats in tables of others: 2.0 is the label 2.
    """
    text = str(value).strip() if value is not None else ""
    if re.fullmatch(r"-?\d+\.0+", text):
        text = text.partition(".")[0]
    return None if text in ("", "nan", "-1") else text


def number_labels(labels: list[str | None]) -> tuple[tuple[str, ...], list[int | None]]:
    """Class names, and each label as an index into them.

    Whole numbers stay the index they are, and the classes are called "0", "1", ...; other names are sorted.
    """
    given = sorted({label for label in labels if label})
    numeric = all(label.isdecimal() and len(label) <= 6 for label in given)
    if numeric and given:
        names = tuple(str(i) for i in range(max(map(int, given)) + 1))
        return names, [int(label) if label else None for label in labels]
    number_of = {name: i for i, name in enumerate(given)}
    return tuple(given), [number_of[label] if label else None for label in labels]
