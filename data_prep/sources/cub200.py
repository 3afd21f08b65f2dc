"""CUB-200-2011 as it is unpacked, with the captions of Reed et al. (2016) where they are there.

CUB_200_2011/{images.txt, classes.txt, image_class_labels.txt, train_test_split.txt, images/001.Black_footed_Albatross/}
text/001.Black_footed_Albatross/NAME.txt, one caption per line; or text_c10/, cvpr2016_cub/text_c10/, birds/text/;
beside CUB_200_2011 or in it. The official test split becomes val.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data_prep.config import ShardsConfig
from data_prep.file_members import FileMembers
from data_prep.items import Item, Listing, Place, file_place
from data_prep.sources.beside import find_pictures
from data_prep.sources.text_lines import read_lines
from pipeline.errors import DataError

FOLDER = "CUB_200_2011"
IMAGES, CLASSES, LABELS, SPLIT = "images.txt", "classes.txt", "image_class_labels.txt", "train_test_split.txt"
CAPTIONS = ("text", "text_c10", "cvpr2016_cub/text_c10", "birds/text")


def find_cub200(root: Path) -> Path | None:
    """The folder with the lists: one called CUB_200_2011, or one with `images/` and two lists; None if none."""
    if (root / FOLDER).is_dir() or root.name == FOLDER:
        return root / FOLDER if (root / FOLDER).is_dir() else root
    lists = sum((root / name).is_file() for name in (IMAGES, CLASSES, LABELS, SPLIT))
    return root if lists >= 2 and (root / "images").is_dir() else None


def list_cub200(cfg: ShardsConfig, base: Path) -> Listing:
    """List the pictures of `images.txt` in its order; classes in the order of `classes.txt`, without their numbers.

    Raises:
        DataError: a list is missing or says nothing of a picture, or the captions do not belong to these pictures.
    """
    paths, classes = _table(base, IMAGES), _table(base, CLASSES)
    labels, splits = _table(base, LABELS), _table(base, SPLIT)
    numbers = {key: number for number, key in enumerate(classes)}
    there = {picture.path: picture for picture in find_pictures(base / "images")}
    items = []
    for key, path in paths.items():
        if labels.get(key) not in numbers:
            raise DataError(f"{base / LABELS}: picture {key} ({path}) has no class of {CLASSES}. Unpack the file anew.")
        if splits.get(key) not in ("0", "1"):
            raise DataError(f"{base / SPLIT}: picture {key} ({path}) is neither 0 nor 1. Unpack the file anew.")
        split, label = "train" if splits[key] == "1" else "val", numbers[labels[key]]
        if path in there:
            items.append(there[path].item(base / "images", split, label))
        else:
            items.append(Item(path, split, label=label, refused=("missing_file", f"{IMAGES} names it")))
    names = tuple(name.partition(".")[2].replace("_", " ") or name for name in classes.values())
    return Listing("CUB-200-2011", names, _captioned(base, items), FileMembers(cfg))


def _table(base: Path, name: str) -> dict[str, str]:
    """A list's lines 'ID VALUE', in their order."""
    if not (base / name).is_file():
        raise DataError(f"{base} has no {name}, which CUB-200-2011 has.\nUnpack CUB_200_2011.tgz anew, all of it.")
    table: dict[str, str] = {}
    for number, line in read_lines(base / name):
        key, _, value = line.partition(" ")
        if not value.strip() or key in table:
            wrong = "comes twice" if key in table else "has no value"
            raise DataError(f"{base / name}:{number}: '{key[:50]}' {wrong}. Unpack the file anew.")
        table[key] = value.strip()
    return table


def _captioned(base: Path, items: list[Item]) -> list[Item]:
    """The items with their files of captions; a picture without one has the captions beside it, or none."""
    folders = [place / name for place in (base, base.parent) for name in CAPTIONS]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return items
    found = [_text(folder, item) for item in items]
    if not any(found):
        first = Path(items[0].source).with_suffix(".txt") if items else "CLASS/NAME.txt"
        raise DataError(f"{folder} holds captions of none of the pictures: no {folder / first}.\nMove them there.")
    return [item if text is None else replace(item, text=text) for item, text in zip(items, found, strict=True)]


def _text(folder: Path, item: Item) -> Place | None:
    if item.image is None:
        return None
    place = file_place(str(folder / Path(item.source).with_suffix(".txt")))
    return None if place.size < 0 else place
