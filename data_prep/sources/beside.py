"""Pictures of a folder, each with what lies beside it under its own stem.

x.jpg   x.txt (one caption per line)   x.flac|wav|mp3|ogg|opus (its sound)   x.source.png (its condition picture)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.items import Item, Place, file_place, printable
from pipeline.errors import DataError

READ_SUFFIXES = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif"})
UNREAD_SUFFIXES = frozenset({"tif", "tiff", "heic", "heif", "avif", "jp2", "jxl", "psd", "raw", "cr2", "nef", "dng"})
"""Pictures all the same: each is reported as a reject instead of being passed over in silence."""
SOUNDS = ("flac", "wav", "mp3", "ogg", "opus")
PAIRS = ("source.png", "source.jpg", "source.jpeg", "source.webp")
"""Where a picture has several sounds or condition pictures, the first of these counts."""
_TEXT = "txt"


class Picture(NamedTuple):
    """A picture and its companions: paths relative to the folder that was listed, None where there is none."""

    path: str
    text: str | None = None
    audio: str | None = None
    pair: str | None = None

    def item(self, root: Path, split: str | None = None, label: int | None = None) -> Item:
        """The sample to be, with places below `root`."""

        def place(path: str | None) -> Place | None:
            return None if path is None else file_place(f"{root}/{path}")

        return Item(
            printable(self.path), split, image=place(self.path), label=label, text=place(self.text),
            one_per_line=True, audio=place(self.audio), pair=place(self.pair),
        )  # fmt: skip


def find_pictures(root: Path) -> list[Picture]:
    """Every picture below `root`, sorted by path; hidden files and folders are passed over."""
    return sorted(picture for prefix, files in _folders(root) for picture in _pictures(prefix, files))


def first_picture(root: Path) -> str | None:
    """One picture below `root`, relative to it; None where there is none."""
    return next((prefix + name for prefix, files in _folders(root) for name in sorted(files) if is_picture(name)), None)


def is_picture(name: str) -> bool:
    """Whether a file's name says it is a picture, of a format that is read or not."""
    suffix = name.rpartition(".")[2].lower()
    return not name.startswith(".") and "." in name and suffix in READ_SUFFIXES | UNREAD_SUFFIXES


def _folders(root: Path) -> Iterator[tuple[str, list[str]]]:
    """("", names), ("a/", names), ...: the files of `root` and of every folder below it, behind links too."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: {error.strerror}. Make it readable, or take it away.") from error

    above: dict[str, frozenset[str]] = {}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        on_the_way = above.pop(folder, frozenset()) | {os.path.realpath(folder)}
        folders[:] = [name for name in folders if not name.startswith(".")]
        if links := [name for name in folders if os.path.realpath(f"{folder}/{name}") in on_the_way]:
            folders[:] = [name for name in folders if name not in links]  # round for ever
        above |= {f"{folder}/{name}": on_the_way for name in folders}
        relative = os.path.relpath(folder, root)
        yield "" if relative == "." else f"{relative}/".replace(os.sep, "/"), files


def _pictures(prefix: str, files: list[str]) -> Iterator[Picture]:
    """The pictures of one folder. `x.source.png` counts as one of its own where no picture is called x."""
    pictures = [name for name in files if is_picture(name)]
    stems = {name.rpartition(".")[0] for name in pictures}
    found: dict[str, dict[str, str]] = {}
    for name in files:
        for extension in (_TEXT, *SOUNDS, *PAIRS):
            stem = name[: -len(extension) - 1]
            if stem in stems and name[len(stem) :].lower() == f".{extension}":
                found.setdefault(stem, {})[extension] = prefix + name
    pairs = {path for one in found.values() for extension, path in one.items() if extension in PAIRS}
    for name in pictures:
        if prefix + name not in pairs:
            beside = found.get(name.rpartition(".")[0], {})
            yield Picture(prefix + name, beside.get(_TEXT), _first(beside, SOUNDS), _first(beside, PAIRS))


def _first(beside: dict[str, str], extensions: tuple[str, ...]) -> str | None:
    return next((beside[e] for e in extensions if e in beside), None)
