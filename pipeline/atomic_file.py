"""Files that appear under their name only when complete: temporary file beside it, fsync, mode 0644, rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".part-"
"""Part of the name of every unfinished file; a leftover of a killed process may be deleted."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and vanishes when it raises."""
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"  # processes in two containers may have one number
    temporary = path.with_name(f".{path.name}{TEMPORARY}{mark}")
    try:
        with temporary.open("wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a whole small file."""
    with atomic_file(path) as file:
        file.write(payload)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete what killed processes left unfinished in `folder`; call it only as the folder's owner."""
    for leftover in folder.glob(f".*{TEMPORARY}*"):
        leftover.unlink(missing_ok=True)
