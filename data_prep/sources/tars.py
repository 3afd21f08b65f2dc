"""WebDataset tars made by others: indexed, never extracted; payloads are read by offset and keys made anew.

What img2dataset leaves beside its tars (`00000_stats.json`, `00000.parquet`) is passed over; a tar that it was stopped
in is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_prep.config import ShardsConfig
from data_prep.file_members import FileMembers
from data_prep.items import Item, Listing, Place, label_text, number_labels
from data_prep.sources.beside import PAIRS, SOUNDS
from pipeline.errors import DataError
from pipeline.samples import CAPTION_MEMBERS, IMAGE_MEMBERS
from pipeline.shard_index import DATASET, ShardIndex, scan_tar, split_of

_IMAGES = (*IMAGE_MEMBERS, "jpeg", "bmp", "gif")


def find_tars(root: Path) -> list[Path]:
    """The tar itself, or the tars in a folder and in the folders right below it, sorted."""
    if root.is_file():
        return [root]
    return sorted(p for pattern in ("*.tar", "*/*.tar") for p in root.glob(pattern) if p.is_file() and p.name[0] != ".")


def list_tars(cfg: ShardsConfig, root: Path, tars: list[Path]) -> Listing:
    """List every sample of every tar. `.cls` holds a number or a class name; splits are read from the tars' names.

    Raises:
        DataError: a tar is cut off or damaged, has links, `..` names, or a member that others would execute.
    """
    labels: list[str | None] = []
    items: list[Item] = []
    for tar in tars:
        index = _scan(tar)
        name = tar.name if tar == root else tar.relative_to(root).as_posix()
        with tar.open("rb") as file:
            for key, members in zip(index.keys, index.members, strict=True):
                items.append(_item(str(tar), name, key, members))
                offset, size = members.get("cls", (0, 0))
                file.seek(offset)
                labels.append(_label(file.read(min(size, 1000)), f"{tar}: {key}.cls") if size else None)
    names, numbers = number_labels(labels)
    several = len({item.split for item in items}) > 1
    items = [
        replace(item, label=number, split=item.split if several else None)
        for item, number in zip(items, numbers, strict=True)
    ]
    return Listing("tars", _known_names(root, names), items, FileMembers(cfg))


def _scan(tar: Path) -> ShardIndex:
    """The index of a tar; a damaged one of img2dataset without its statistics was never finished."""
    try:
        return scan_tar(tar)
    except DataError as error:
        finished = tar.with_name(f"{tar.stem}_stats.json").is_file()
        if finished or next(tar.parent.glob("*_stats.json"), None) is None:
            raise
        raise DataError(f"{error}\nimg2dataset was stopped in it: let it finish, or take the tar away.") from None


def _item(tar: str, name: str, key: str, members: Mapping[str, tuple[int, int]]) -> Item:
    def place(extensions: tuple[str, ...]) -> Place | None:
        found = next((members[e] for e in extensions if e in members), None)
        return None if found is None else Place(tar, found[1], found[0])

    return Item(
        f"{name}:{key}", split_of(name), image=place(_IMAGES), text=place(CAPTION_MEMBERS), audio=place(SOUNDS),
        pair=place(PAIRS), record=place(("json",)),
    )  # fmt: skip


def _label(payload: bytes, where: str) -> str | None:
    try:
        return label_text(payload.decode("utf-8"))
    except UnicodeDecodeError:
        raise DataError(f"{where} is neither a number nor a class name.") from None


def _known_names(root: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Class names from the `dataset.json` of our own shards, where numbers alone stand in the tars."""
    try:
        known = json.loads((root / DATASET).read_bytes())["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        return names
    return tuple(map(str, known)) if names and len(known) >= len(names) else names
