"""Images in folders: one folder per class (`cat/1.jpg`), split folders above them (`train/cat/1.jpg`), or no order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.config import ShardsConfig
from data_prep.file_members import FileMembers
from data_prep.items import Item, Listing, file_place, printable

READ_SUFFIXES = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif"})
UNREAD_SUFFIXES = frozenset({"tif", "tiff", "heic", "heif", "avif", "jp2", "jxl", "psd", "raw", "cr2", "nef", "dng"})
"""Pictures all the same: each is reported as a reject instead of being passed over in silence."""
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def list_folders(cfg: ShardsConfig, root: Path) -> Listing:
    """List every picture below `root`, sorted by path; labels are the folder names, sorted."""
    paths = list(image_paths(root))
    splits = split_names(paths)
    inner = [path.partition("/")[2] if splits else path for path in paths]
    named = [path.partition("/")[0] if "/" in path else None for path in inner]
    classes = tuple(sorted({printable(name) for name in named if name is not None}))
    labelled = cfg.labels == "folders" or (cfg.labels == "auto" and len(classes) > 1 and None not in named)
    items = []
    for path, name in zip(paths, named, strict=True):
        label = classes.index(printable(name)) if labelled and name is not None else None
        split = SPLIT_FOLDERS[path.partition("/")[0].lower()] if splits else None
        place = file_place(f"{root}/{path}")
        items.append(Item(printable(path), split, image=place, label=label))
    kind = "class folders" if labelled else "folder"
    return Listing(kind, classes if labelled else (), items, FileMembers(cfg))


def image_paths(root: Path) -> Iterator[str]:
    """Paths of pictures relative to `root`, sorted; hidden files and folders are passed over."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else f"{relative}/".replace(os.sep, "/")
        found += [prefix + name for name in files if is_image(name)]
    yield from sorted(found)


def is_image(name: str) -> bool:
    """Whether a file's name says it is a picture, of a format that is read or not."""
    suffix = name.rpartition(".")[2].lower()
    return not name.startswith(".") and "." in name and suffix in READ_SUFFIXES | UNREAD_SUFFIXES


def any_image(root: Path) -> bool:
    """Whether there is one picture below `root`."""
    return next(image_paths(root), None) is not None


def split_names(paths: list[str]) -> bool:
    """Whether the folders at the top are splits: all called train, val, test or the like, `train` among them."""
    tops = {path.partition("/")[0].lower() if "/" in path else "" for path in paths}
    return "train" in tops and tops <= set(SPLIT_FOLDERS)
