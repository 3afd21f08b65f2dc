"""Images in folders: one folder per class (`cat/1.jpg`), split folders above them (`train/cat/1.jpg`), or no order.

Captions, a sound and a condition picture may lie beside each: `data_prep.sources.beside`.
"""

from __future__ import annotations

from pathlib import Path

from data_prep.config import ShardsConfig
from data_prep.file_members import FileMembers
from data_prep.items import Listing, printable
from data_prep.sources.beside import find_pictures
from pipeline.errors import DataError

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def list_folders(cfg: ShardsConfig, root: Path) -> Listing:
    """List every picture below `root`, sorted by path; labels are the folder names, sorted."""
    pictures = find_pictures(root)
    paths = [picture.path for picture in pictures]
    splits = split_names(paths)
    _refuse_strays(root, paths)
    inner = [path.partition("/")[2] if splits else path for path in paths]
    named = [path.partition("/")[0] if "/" in path else None for path in inner]
    classes = tuple(sorted({printable(name) for name in named if name is not None}))
    numbers = {name: number for number, name in enumerate(classes)}
    meant = len(classes) > 1 and None not in named and not _are_parts(root, classes)
    labelled = cfg.labels == "folders" or (cfg.labels == "auto" and meant)
    items = []
    for picture, name in zip(pictures, named, strict=True):
        label = numbers[printable(name)] if labelled and name is not None else None
        split = SPLIT_FOLDERS[picture.path.partition("/")[0].lower()] if splits else None
        items.append(picture.item(root, split, label))
    kind = "class folders" if labelled else "folder"
    return Listing(kind, classes if labelled else (), items, FileMembers(cfg))


def _refuse_strays(root: Path, paths: list[str]) -> None:
    """DataError where pictures lie beside split folders: taken along, they would mix the splits."""
    inside = [path for path in paths if "/" in path]
    strays = [path for path in paths if "/" not in path]
    if strays and split_names(inside):
        raise DataError(
            f"{root / printable(strays[0])} lies beside the folders of splits ({len(strays)} such). "
            "Put it into one of them, or take it away."
        )


def _are_parts(root: Path, folders: tuple[str, ...]) -> bool:
    """Whether they are the numbered parts that img2dataset writes, each with its statistics."""
    return all(name.isdecimal() and (root / f"{name}_stats.json").is_file() for name in folders)


def split_names(paths: list[str]) -> bool:
    """Whether the folders at the top are splits: all called train, val, test or the like, `train` among them."""
    tops = {path.partition("/")[0].lower() if "/" in path else "" for path in paths}
    return "train" in tops and tops <= set(SPLIT_FOLDERS)
