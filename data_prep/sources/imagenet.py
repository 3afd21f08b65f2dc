"""ImageNet (ILSVRC 2012): `train/n01440764/*.JPEG` and `val/`, plain or as Kaggle packs it, in `ILSVRC/Data/CLS-LOC/`.

Classes are the folders of train, sorted: the usual numbers 0 to 999. `LOC_synset_mapping.txt` gives their names, the
first synonym of each. Pictures of val lie in class folders too, or flat, with `LOC_val_solution.csv`; both files lie at
the top of Kaggle's archive, or beside `train`. `test` has no labels and is passed over.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from data_prep.config import ShardsConfig
from data_prep.file_members import FileMembers
from data_prep.items import Item, Listing, printable
from data_prep.sources.beside import find_pictures
from data_prep.sources.text_lines import read_lines, read_rows
from pipeline.errors import DataError

MAPPING, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_PACKED = "CLS-LOC"
_WNID = re.compile(r"n\d{8}")


def find_imagenet(root: Path) -> Path | None:
    """The folder that holds `train` with its class folders; None where this is no ImageNet."""
    for packed in (root / "ILSVRC" / "Data" / _PACKED, root / "Data" / _PACKED):
        if packed.is_dir():
            return packed
    return root if root.name == _PACKED or _wnids(root / "train") else None


def list_imagenet(cfg: ShardsConfig, base: Path) -> Listing:
    """List the pictures of train and val, sorted by path.

    Raises:
        DataError: no class folders, or nothing says what the pictures of val show.
    """
    wnids = _wnids(base / "train")
    if not wnids:
        raise DataError(
            f"{base / 'train'} must hold class folders such as n01440764, and nothing but them.\n"
            "Unpack the training pictures there, each class into a folder of its name."
        )
    pictures = [picture for picture in find_pictures(base) if picture.path.startswith(("train/", "val/"))]
    labelled = cfg.labels != "none"
    numbers = {wnid: number for number, wnid in enumerate(wnids) if labelled}
    flat = sum(picture.path.startswith("val/") and picture.path.count("/") == 1 for picture in pictures)
    solution = _solution(base, flat) if flat and labelled else {}
    items = []
    for picture in pictures:
        split, name, *rest = picture.path.split("/")
        wnid = name if rest else solution.get(Path(name).stem)
        item = picture.item(base, split, numbers.get(wnid or ""))
        items.append(item if item.label is not None or not labelled else _without_label(item, wnid))
    return Listing("ImageNet", _names(base, wnids) if labelled else (), items, FileMembers(cfg))


def _without_label(item: Item, wnid: str | None) -> Item:
    flat = f"outside of class folders, and no line of {SOLUTION}"
    return replace(item, refused=("no_label", flat if wnid is None else f"'{printable(wnid)}' is no folder of train"))


def _wnids(train: Path) -> list[str]:
    """The class folders, sorted; none where there are folders of other names too."""
    entries = os.scandir(train) if train.is_dir() else ()
    names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return names if all(_WNID.fullmatch(name) for name in names) else []


def _beside(base: Path, name: str) -> Path | None:
    """A file of the archive: beside `train`, or at the top of Kaggle's folders."""
    folders = [base, *base.absolute().parents[:3]] if base.name == _PACKED else [base]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _solution(base: Path, count: int) -> Mapping[str, str]:
    """Stem of a picture of val -> its class."""
    path = _beside(base, SOLUTION)
    if path is None:
        raise DataError(
            f"{base / 'val'} holds {count} pictures outside of class folders, and no {SOLUTION} says what they show.\n"
            f"Put that file (it comes with Kaggle's archive) at {base / SOLUTION}, or sort val into class folders."
        )
    solution = {}
    for line, row in read_rows(path):
        wnid = row[1].partition(" ")[0] if len(row) == 2 else ""
        if _WNID.fullmatch(wnid):
            solution[row[0]] = wnid
        elif line > 1:
            raise DataError(f"{path}:{line}: not a picture and a class, as in 'ILSVRC2012_val_00000001,n01751748 ...'.")
    return solution


def _names(base: Path, wnids: list[str]) -> tuple[str, ...]:
    """The first synonym of every class, with its folder where two classes share one; the folder where none is given."""
    path = _beside(base, MAPPING)
    first = {wnid: wnid for wnid in wnids}
    for number, line in read_lines(path) if path is not None else ():
        wnid, _, synonyms = line.partition(" ")
        if not _WNID.fullmatch(wnid) or not synonyms.strip():
            raise DataError(f"{path}:{number}: not a class and its names, as in 'n01440764 tench, Tinca tinca'.")
        if wnid in first:
            first[wnid] = synonyms.partition(",")[0].strip()
    shared = Counter(first.values())
    return tuple(name if shared[name] == 1 else f"{name} ({wnid})" for wnid, name in first.items())
