"""Walk the headers of a tar, strictly: what `tarfile` and WebDataset pass over in silence is an error here.

A tar cut at a member boundary looks complete to most readers; only the end-of-archive marker tells. Compressed tars,
links and devices are refused: nothing is ever extracted, payloads are read by offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.errors import DataError

BLOCK = 512
_MAX_NAME_BYTES = 1 << 16
_KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}


@dataclass(frozen=True)
class Member:
    """One regular file of a tar; `offset` is where its bytes begin."""

    name: str
    offset: int
    size: int


def walk(file: BinaryIO, *, where: str) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar in order.

    Args:
        file: open and seekable.
        where: the tar's name in errors.

    Raises:
        DataError: cut off (also at a member boundary), damaged header, compressed, link or device.
    """
    total = file.seek(0, 2)
    position, name = 0, ""
    while True:
        block = _read(file, position, BLOCK, where)
        if not any(block):
            if any(_read(file, position + BLOCK, BLOCK, where)):
                raise DataError(f"{where}: an empty header at byte {position}, with more behind it.")
            return
        kind, size = block[156:157], _size(block, position, where)
        data, position = position + BLOCK, position + BLOCK + size + -size % BLOCK
        if position > total:
            raise DataError(f"{where}: cut off: a member ends at byte {position}, the file has {total}.")
        if kind in (b"L", b"x"):
            name = _long_name(kind, _read(file, data, min(size, _MAX_NAME_BYTES), where)) or name
        elif kind in (b"0", b"\0", b"7"):
            yield Member(name or _name(block, where), data, size)
            name = ""
        elif kind in _KINDS:
            raise DataError(f"{where}: member {name or _name(block, where)!r} is {_KINDS[kind]}; only files are read.")
        elif kind not in (b"5", b"g"):
            raise DataError(f"{where}: member of unknown kind {kind!r} at byte {data - BLOCK}.")


def _read(file: BinaryIO, position: int, size: int, where: str) -> bytes:
    file.seek(position)
    block = file.read(size)
    if len(block) < size:
        raise DataError(f"{where}: cut off at byte {position + len(block)}: no end-of-archive marker.")
    return block


def _size(block: bytes, position: int, where: str) -> int:
    try:
        stored = int(block[148:156].split(b"\0")[0].strip() or b"0", 8)
        field = block[124:136]
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        stored, size = -1, 0
    if stored != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        compressed = position == 0 and block[:2] == b"\x1f\x8b"
        what = "compressed; decompress it first" if compressed else f"damaged: no tar header at byte {position}"
        raise DataError(f"{where}: {what}.")
    return size


def _name(block: bytes, where: str) -> str:
    name = block[:100].split(b"\0")[0]
    prefix = block[345:500].split(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name, where)


def _text(name: bytes, where: str) -> str:
    try:
        return name.decode("utf-8").removeprefix("./")
    except UnicodeDecodeError:
        raise DataError(f"{where}: member name {name[:80]!r} is not UTF-8.") from None


def _long_name(kind: bytes, payload: bytes) -> str:
    """The name in a GNU long-name member or in a pax header's `path` record ("length key=value\\n")."""
    if kind == b"L":
        return payload.split(b"\0")[0].decode("utf-8", "replace").removeprefix("./")
    while payload:
        length, _, _ = payload.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(payload):
            return ""
        key, _, value = payload[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "replace").removeprefix("./")
        payload = payload[int(length) :]
    return ""
