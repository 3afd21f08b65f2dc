"""Tars whose bytes depend on the samples alone: ustar headers from one template, no times, no owners.

A header costs one copy of the template and two sums, several times cheaper than `tarfile` per member. The file appears
under its name only when complete (`pipeline.atomic_file`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pipeline.atomic_file import atomic_file
from pipeline.errors import DataError
from pipeline.samples import Sample

BLOCK = 512
RECORD = 20 * BLOCK
"""Archives are padded to whole records, as tar(1) does."""
_MAX_SIZE = 8**11 - 1

# POSIX ustar: mode 0644, uid, gid and mtime 0, checksum as spaces, a regular file.
_MODE_OWNERS = b"0000644\0" + b"0000000\0" * 2
_TIME_CHECKSUM = b"00000000000\0" + b" " * 8
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
_CONSTANT_SUM = sum(_MODE_OWNERS) + sum(_TIME_CHECKSUM) + sum(_AFTER_CHECKSUM)


def header(name: str, size: int) -> bytes:
    """One 512-byte ustar header.

    Raises:
        DataError: the name does not fit ustar (100 bytes, or 155 + 100 cut at a slash) or the size 8 GiB.
    """
    tail, prefix = _cut_name(name)
    digits = b"%011o\0" % size
    if size > _MAX_SIZE:
        raise DataError(f"member '{name}' has {size:,} bytes; a tar member holds at most 8 GiB.")
    checksum = _CONSTANT_SUM + sum(tail) + sum(prefix) + sum(digits)
    return b"".join((
        tail.ljust(100, b"\0"), _MODE_OWNERS, digits, _TIME_CHECKSUM[:12], b"%06o\0 " % checksum,
        _AFTER_CHECKSUM, prefix.ljust(167, b"\0"),
    ))  # fmt: skip


def fits(name: str) -> bool:
    """Whether a member may have this name."""
    try:
        _cut_name(name)
    except DataError:
        return False
    return True


def _cut_name(name: str) -> tuple[bytes, bytes]:
    encoded = name.encode()
    if len(encoded) <= 100:
        return encoded, b""
    cut = encoded.rfind(b"/", 0, 156)
    if cut <= 0 or len(encoded) - cut - 1 > 100:
        raise DataError(f"member name '{name[:60]}...' has {len(encoded)} bytes; a tar name holds at most 100.")
    return encoded[cut + 1 :], encoded[:cut]


@dataclass
class TarWriter:
    """Write samples one after another; `keys` and `members` say where each payload lies.

    Use as a context manager: the file appears under `path` when the block ends without an error.
    """

    path: Path
    keys: list[str] = field(default_factory=list)
    members: list[dict[str, tuple[int, int]]] = field(default_factory=list)
    size: int = 0

    def __enter__(self) -> TarWriter:
        self._digest = hashlib.sha256()
        self._atomic = atomic_file(self.path)
        self._file = self._atomic.__enter__()
        return self

    def write(self, sample: Sample) -> dict[str, tuple[int, int]]:
        """Append a sample; returns extension -> (byte offset of the payload, size)."""
        position = self.size
        parts: list[bytes] = []
        offsets: dict[str, tuple[int, int]] = {}
        for extension, payload in sample.members.items():
            size = len(payload)
            offsets[extension] = (position + BLOCK, size)
            parts += (header(f"{sample.key}.{extension}", size), payload, bytes(-size % BLOCK))
            position += BLOCK + size + -size % BLOCK
        self._append(b"".join(parts))
        self.keys.append(sample.key)
        self.members.append(offsets)
        return offsets

    def _append(self, block: bytes) -> None:
        self._file.write(block)
        self._digest.update(block)
        self.size += len(block)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._append(bytes(2 * BLOCK + -(self.size + 2 * BLOCK) % RECORD))
        self._atomic.__exit__(kind, error, at)

    @property
    def sha256(self) -> str:
        """Of everything written so far; of the whole file once closed."""
        return self._digest.hexdigest()
